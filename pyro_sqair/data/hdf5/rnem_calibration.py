# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""In which units and in which order R-NEM's files give positions, found from the pixels of the balls."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

# A ball counts as wholly visible when it shows this part of the most pixels that it ever shows.
_WHOLE = 0.9
_MAX_ERROR = 1.0


class BallPixels(NamedTuple):
    """What the masks say of K balls in T frames of n sequences.

    Attributes:
        area: visible pixels, float32 [T, n, K].
        centres: their mean (x, y), pixels, float32 [T, n, K, 2]; NaN where none is visible.
    """

    area: Tensor
    centres: Tensor

    @property
    def whole(self) -> Tensor:
        """Whether the ball shows nearly all that it ever shows, bool [T, n, K]."""
        return (self.area > 0) & (self.area >= _WHOLE * self.area.amax(0))

    @property
    def radius(self) -> Tensor:
        """Of a disc with as many pixels as the ball usually has when it is whole, [n, K]; 0 for one never seen."""
        usual = torch.where(self.whole, self.area, torch.nan).nanmedian(0).values
        return (usual / math.pi).sqrt().nan_to_num(0.0)


class Calibration(NamedTuple):
    """How to make pixels of positions.

    Attributes:
        order: which of the two coordinates is x and which y.
        scale: pixels of the frame in a unit, for x and y, [2].
        offset: where in the frame, x and y in pixels, the coordinates are 0, [2].
        frames: time units in a frame: the displacement between frames is this times the velocity.
    """

    order: tuple[int, int]
    scale: Tensor
    offset: Tensor
    frames: float

    def positions(self, positions: Tensor) -> Tensor:
        """Centres (x, y) in pixels of the frame."""
        return positions[..., self.order] * self.scale + self.offset

    def velocities(self, velocities: Tensor) -> Tensor:
        """Velocities (x, y) in pixels a frame."""
        return velocities[..., self.order] * self.scale * self.frames


def ball_pixels(groups: Tensor, balls: int) -> BallPixels:
    """Measures each ball's pixels.

    Args:
        groups: which ball each pixel shows, k + 1 for ball k, [T, n, H, W].
        balls: K.
    """
    mask = (groups[:, :, None] == torch.arange(1, balls + 1).view(-1, 1, 1)).float()
    area = mask.sum((-2, -1))
    height, width = groups.shape[-2:]
    # The centre of the first pixel is at 0.5, so that the frame spans [0, W].
    x = (mask.sum(-2) @ (torch.arange(width) + 0.5)) / area
    y = (mask.sum(-1) @ (torch.arange(height) + 0.5)) / area
    return BallPixels(area, torch.stack([x, y], -1))


def calibrate(pixels: BallPixels, positions: Tensor, velocities: Tensor) -> Calibration:
    """Fits positions to the centres of wholly visible balls, by least squares.

    Args:
        pixels: of some sequences.
        positions: of the same, in whatever unit, [T, n, K, 2].
        velocities: of the same, [T, n, K, 2].

    Raises:
        ValueError: if no order of the coordinates brings positions within a pixel of where the balls are.
    """
    whole = pixels.whole
    centres = pixels.centres[whole].double()
    fits = []
    for order in ((0, 1), (1, 0)):
        given = positions[..., order][whole].double()
        mean = given.mean(0)
        scale = ((given - mean) * centres).sum(0) / (given - mean).square().sum(0)
        offset = centres.mean(0) - scale * mean
        error = float((given * scale + offset - centres).square().mean().sqrt())
        fits.append((error, order, scale.float(), offset.float()))
    error, order, scale, offset = min(
        (fit for fit in fits if fit[0] == fit[0]), default=fits[0], key=lambda fit: fit[0]
    )
    if not error < _MAX_ERROR:
        raise ValueError(
            f"expected positions of ball k where groups are k + 1, got positions that are off by {error:.1f} px or "
            "more, in whatever unit"
        )
    return Calibration(order, scale, offset, _frames(positions, velocities))


def _frames(positions: Tensor, velocities: Tensor) -> float:
    """The usual ratio of a ball's displacement between frames to its velocity: collisions are the exception."""
    speed = velocities[:-1].square().sum(-1)
    along = (positions.diff(dim=0) * velocities[:-1]).sum(-1)
    moving = speed > 0
    return float((along[moving] / speed[moving]).median()) if bool(moving.any()) else 1.0
