# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""From tensors to what is drawn: frames as 8-bit colours, objects as coloured boxes."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_sqair.scene.objects import Objects
from pyro_sqair.scene.spatial import boxes
from pyro_sqair.tracking.rollout import Rollout
from pyro_sqair.viz.palette import color_of


class Outline(NamedTuple):
    """A box to draw: left, top, width and height in pixels of the frame, and its colour."""

    box: tuple[float, float, float, float]
    color: str


Outlines = list[list[list[Outline]]]
"""For each frame, for each sequence, its boxes."""


def as_pictures(frames: Tensor) -> np.ndarray:
    """Frames as 8-bit colours.

    Args:
        frames: grey or colour, clipped to [0, 1], shape [T, B, C, H, W] with C of 1 or 3.

    Returns:
        An array of shape [T, B, H, W, 3].

    Raises:
        ValueError: for another shape.
    """
    if frames.dim() != 5 or frames.shape[2] not in (1, 3) or 0 in frames.shape:
        raise ValueError(f"expected frames of shape [T, B, 1 or 3, H, W], got {list(frames.shape)}")
    bytes_ = (frames.detach().clamp(0, 1) * 255).round().to(torch.uint8)
    return bytes_.movedim(2, -1).expand(*bytes_.shape[:2], *bytes_.shape[3:], 3).cpu().numpy()


def as_outlines(objects: Objects, frame_size: tuple[int, int]) -> Outlines:
    """The boxes of the objects that are present, coloured by id.

    Args:
        objects: stacked over time, fields of shape [T, B, N, ...].
        frame_size: height and width in pixels.
    """
    corners = boxes(objects.where, frame_size).detach().cpu().tolist()
    present, ids = (objects.pres > 0.5).tolist(), objects.id.tolist()
    return [
        [
            [Outline(tuple(corners[t][b][n]), color_of(ids[t][b][n])) for n, there in enumerate(slots) if there]
            for b, slots in enumerate(sequences)
        ]
        for t, sequences in enumerate(present)
    ]


def check_rollout(rollout: Rollout, frames: Tensor | None = None) -> None:
    """Requires a rollout stacked over time and, if given, frames of the same sequences and size.

    The rollout may be longer than the frames: what follows is imagined.

    Raises:
        ValueError: if the shapes do not fit.
    """
    if rollout.image.dim() != 5 or 0 in rollout.image.shape:
        raise ValueError(f"expected rollout images of shape [T, B, C, H, W], got {list(rollout.image.shape)}")
    if rollout.objects.pres.dim() != 3 or rollout.objects.pres.shape[:2] != rollout.image.shape[:2]:
        steps, batch = rollout.image.shape[:2]
        raise ValueError(f"expected objects of shape [{steps}, {batch}, N], got {list(rollout.objects.pres.shape)}")
    if frames is None:
        return
    if frames.dim() != 5 or frames.shape[1:] != rollout.image.shape[1:] or len(frames) > len(rollout.image):
        raise ValueError(
            f"expected frames of the sequences in the rollout {list(rollout.image.shape)}, and not more of "
            f"them, got {list(frames.shape)}"
        )
