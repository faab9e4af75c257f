# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Anti-aliased discs at sub-pixel positions."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Footprints(NamedTuple):
    """The pixels around M discs in each of B frames: S x S for each disc, P = M * S * S in all.

    Attributes:
        coverage: share of the pixel that the disc covers, 0 to 1, float32 [B, M, S * S].
        pixel: its index in the flattened frame, int64 [B, P]; the number of pixels for one outside the frame.
    """

    coverage: Tensor
    pixel: Tensor


def footprints(centres: Tensor, radii: Tensor, side: int, size: int) -> Footprints:
    """Which pixels the discs cover, and how much of each.

    At distance d from the centre of a disc of radius r, the coverage is r - d + 1/2, clipped to [0, 1]. This is exact
    for a straight edge along the pixels. Averaged over sub-pixel positions, the area of a disc is pi * (r^2 + 1/12).

    Args:
        centres: (x, y) in pixels, float64 [B, M, 2]; pixel (row, column) has its centre at
            (column + 1/2, row + 1/2). Discs may be partly or completely outside.
        radii: float64 [B, M].
        side: S, from `footprint_side` for the largest disc.
        size: side of the square frame.
    """
    steps = torch.arange(side, device=centres.device)
    first = (centres - 0.5 * side).round()
    offset = (first - centres)[..., None] + (steps + 0.5)  # [B, M, 2, S]
    place = first.long()[..., None] + steps
    # Indices outside the frame are replaced by one so large that its sum with any other is outside, too.
    place = torch.where((place >= 0) & (place < size), place, size * size)
    square = offset.square().float()
    distance = (square[:, :, 1, :, None] + square[:, :, 0, None]).sqrt_()
    coverage = distance.neg_().add_((radii + 0.5).float()[..., None, None]).clamp_(0.0, 1.0)
    pixel = (place[:, :, 1, :, None] * size + place[:, :, 0, None]).clamp_(max=size * size)
    return Footprints(coverage.flatten(2), pixel.flatten(1))


def footprint_side(radius: float) -> int:
    """Side in pixels of a square that contains a disc of this radius and its soft edge, at any sub-pixel position."""
    return math.ceil(2.0 * radius + 1.0)


def paint(discs: Footprints, brightness: Tensor, size: int) -> Tensor:
    """One channel of frames, uint8 [B, size, size]: discs on black, the maximum where discs overlap.

    Args:
        discs: the pixels they cover.
        brightness: of each disc, 0 to 1, float32 [B, M].
        size: side of the square frame.
    """
    batch = len(brightness)
    # Adding a half before truncation rounds to the nearest byte.
    value = (discs.coverage * (255.0 * brightness)[..., None]).add_(0.5).to(torch.uint8)
    canvas = value.new_zeros(batch, size * size + 1)  # the last element receives pixels outside the frame
    canvas.scatter_reduce_(1, discs.pixel, value.flatten(1), "amax")
    return canvas[:, :-1].unflatten(1, (size, size))
