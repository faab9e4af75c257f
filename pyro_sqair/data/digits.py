# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Images of digits, cropped to their bounding boxes, for videos of moving digits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_sqair.data.sequences import require


class DigitImages(NamedTuple):
    """M digits, each cropped to its bounding box and placed top-left in a square of S pixels.

    Attributes:
        images: uint8 [M, S, S]; zero to the right of and below the digit.
        heights: int64 [M], pixels.
        widths: int64 [M], pixels.
        labels: int64 [M], the digit.
    """

    images: Tensor
    heights: Tensor
    widths: Tensor
    labels: Tensor


def check_split(split: str) -> None:
    """Raises a ValueError unless `split` is "train" or "test"."""
    require(split in ("train", "test"), "split to be one of 'train', 'test'", repr(split))


def crop_digits(images: Tensor, labels: Tensor) -> DigitImages:
    """Crops every image to the bounding box of its non-zero pixels, at its original scale.

    Args:
        images: uint8 [M, H, W], of which none is blank.
        labels: [M], the digit in each.

    Returns:
        The crops; S is the longest side of any box.
    """
    length = max(images.shape[1:])
    if images.shape[1] != images.shape[2]:
        images = F.pad(images, (0, length - images.shape[2], 0, length - images.shape[1]))
    (top, height), (left, width) = _extent(images.amax(2) > 0), _extent(images.amax(1) > 0)
    steps = torch.arange(int(torch.maximum(height, width).max()))
    # Indices may wrap around the edge: all rows and columns outside the box are blank.
    rows, columns = ((first[:, None] + steps) % length for first in (top, left))
    crops = images[torch.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]
    return DigitImages(crops, height, width, labels.long())


def embedded_digits(split: str) -> DigitImages:
    """The 1,797 handwritten digits of scikit-learn, enlarged from 8x8 to 20x20 pixels.

    They need no download. Every seventh is a test digit (257); the others are for training (1,540).

    Args:
        split: "train" or "test".

    Raises:
        ValueError: if the split is unknown.
        ImportError: if scikit-learn is not installed.
    """
    check_split(split)
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        advice = "which is not installed: pip install 'pyro_sqair[digits]'"
        raise ImportError(f"the embedded digits come with scikit-learn, {advice}") from error
    data = load_digits()
    # Classes repeat as 0, 1, ..., 9; as 7 and 10 are coprime, both splits have all classes.
    is_test = torch.arange(len(data.target)) % 7 == 0
    keep = is_test if split == "test" else ~is_test
    small = torch.as_tensor(data.images, dtype=torch.float32)[keep]
    labels = torch.as_tensor(data.target, dtype=torch.int64)[keep]
    large = F.interpolate(small[:, None], size=(20, 20), mode="bicubic", align_corners=False)[:, 0]
    large = (large / large.amax((1, 2), keepdim=True)).clamp(0.0, 1.0)
    # Interpolation leaves an invisible halo that would widen the bounding box.
    large = torch.where(large < 0.05, 0.0, large)
    return crop_digits((large * 255.0).round().to(torch.uint8), labels)


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First occupied index, and the length up to the last one: [M, L] -> [M], [M]."""
    first = occupied.int().argmax(1)
    return first, occupied.shape[1] - occupied.flip(1).int().argmax(1) - first
