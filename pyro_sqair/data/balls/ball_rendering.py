# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Anti-aliased discs, drawn at any place to a fraction of a pixel."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Footprints(NamedTuple):
    """The pixels round M discs in each of B frames, S x S for every disc; M * S * S are written P.

    Attributes:
        coverage: how much of the pixel the disc takes, 0 to 1, float32 [B, M, S * S].
        pixel: where it is in the flattened frame, int64 [B, P]; the number of pixels where it is outside.
    """

    coverage: Tensor
    pixel: Tensor


def footprints(centres: Tensor, radii: Tensor, side: int, size: int) -> Footprints:
    """Which pixels discs cover, and how much of each.

    A pixel whose centre lies d from that of a disc of radius r has the coverage r - d + 1/2, clipped to [0, 1]: exact
    for a straight edge along the pixels, and a disc gets the area pi * (r^2 + 1/12) in the mean over its places.

    Args:
        centres: (x, y) in pixels, float64 [B, M, 2]; pixel (row, column) has its centre at
            (column + 1/2, row + 1/2), and discs may lie partly or wholly outside.
        radii: float64 [B, M].
        side: S, as `footprint_side` gives it for the largest disc.
        size: side of the square frame.
    """
    steps = torch.arange(side, device=centres.device)
    first = (centres - 0.5 * side).round()
    offset = (first - centres)[..., None] + (steps + 0.5)  # [B, M, 2, S]
    place = first.long()[..., None] + steps
    # An index outside the frame becomes so large that no sum with another one is inside.
    place = torch.where((place >= 0) & (place < size), place, size * size)
    square = offset.square().float()
    distance = (square[:, :, 1, :, None] + square[:, :, 0, None]).sqrt_()
    coverage = distance.neg_().add_((radii + 0.5).float()[..., None, None]).clamp_(0.0, 1.0)
    pixel = (place[:, :, 1, :, None] * size + place[:, :, 0, None]).clamp_(max=size * size)
    return Footprints(coverage.flatten(2), pixel.flatten(1))


def footprint_side(radius: float) -> int:
    """How many pixels, along each side, hold a disc of this radius with its soft edge, wherever it lies."""
    return math.ceil(2.0 * radius + 1.0)


def paint(discs: Footprints, brightness: Tensor, size: int) -> Tensor:
    """One channel of frames, uint8 [B, size, size]: black but for the discs, the brightest where two overlap.

    Args:
        discs: where they are.
        brightness: of each disc, 0 to 1, float32 [B, M].
        size: side of the square frame.
    """
    batch = len(brightness)
    # Rounding to the nearest byte: adding a half, then cutting off.
    value = (discs.coverage * (255.0 * brightness)[..., None]).add_(0.5).to(torch.uint8)
    canvas = value.new_zeros(batch, size * size + 1)  # the last pixel takes what is outside
    canvas.scatter_reduce_(1, discs.pixel, value.flatten(1), "amax")
    return canvas[:, :-1].unflatten(1, (size, size))
