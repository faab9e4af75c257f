# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Images of digits, cropped to their bounding boxes, for videos of moving digits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_sqair.data.pixels import from_uint8, quantise, to_uint8

SPLITS = ("train", "test")
_PART = 1024


class DigitImages(NamedTuple):
    """M digits, each cropped to its bounding box and placed top-left in a square of S pixels.

    Attributes:
        images: float32 [M, S, S], each pixel k/255 for a byte k; zero to the right of and below the digit.
        heights: int64 [M], pixels.
        widths: int64 [M], pixels.
        labels: int64 [M], the digit.
    """

    images: Tensor
    heights: Tensor
    widths: Tensor
    labels: Tensor

    def to(self, device: torch.device | str) -> DigitImages:
        """The same digits on another device."""
        return DigitImages(*(field.to(device) for field in self))


def check_split(split: str) -> None:
    """Raises a ValueError unless `split` is "train" or "test"."""
    if split not in SPLITS:
        raise ValueError(f"expected split to be one of {', '.join(map(repr, SPLITS))}, got {split!r}")


def crop_digits(images: Tensor, labels: Tensor) -> DigitImages:
    """Crops every image to the bounding box of its non-zero pixels.

    Args:
        images: [M, H, W], uint8 in [0, 255] or float in [0, 1], which is rounded to the nearest k/255.
        labels: [M], the digit in each.

    Returns:
        The crops at their original scale; S is the longest side of any box.

    Raises:
        ValueError: if the shapes are wrong or an image is blank.
    """
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise ValueError(f"expected images [M, H, W] and labels [M], got {list(images.shape)} and {list(labels.shape)}")
    # Before the boxes are computed: pixels that round to 0 would widen them.
    images = to_uint8(quantise(images)) if images.is_floating_point() else images
    top, height = _extent(images.amax(2) > 0)
    left, width = _extent(images.amax(1) > 0)
    if not bool(height.all()):
        raise ValueError(f"expected a non-zero pixel in every image, got a blank image at index {int(height.argmin())}")

    side = int(torch.maximum(height, width).max())
    crops = torch.empty(len(images), side, side)
    # In parts, written in place: the indices take 8 bytes for each pixel.
    parts = (field.split(_PART) for field in (crops, images, top, left, height, width))
    for crop, *part in zip(*parts, strict=True):
        crop.copy_(from_uint8(_crop(side, *part)))
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
        raise ImportError(
            "the embedded digits come with scikit-learn, which is not installed: pip install 'pyro_sqair[digits]'"
        ) from error
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
    return crop_digits(large, labels)


def _crop(side: int, images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Boxes [M] of images [M, H, W], placed top-left in squares [M, S, S]."""
    steps = torch.arange(side)
    rows = (top[:, None] + steps).clamp(max=images.shape[1] - 1)
    cols = (left[:, None] + steps).clamp(max=images.shape[2] - 1)
    crops = images.gather(1, rows[:, :, None].expand(-1, -1, images.shape[2]))
    crops = crops.gather(2, cols[:, None, :].expand(-1, side, -1))
    # Indices outside the image were clamped, which repeats its last row or column: set these to 0.
    inside = (steps < height[:, None])[:, :, None] & (steps < width[:, None])[:, None, :]
    return crops * inside


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First occupied index, and the length up to the last one (0 if there is none): [M, L] -> [M], [M]."""
    first = occupied.int().argmax(1)
    last = occupied.shape[1] - 1 - occupied.flip(1).int().argmax(1)
    return first, torch.where(occupied.any(1), last - first + 1, 0)
