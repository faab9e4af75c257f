# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Pixels as bytes in files and as float32 in [0, 1] everywhere else, exactly one for the other."""

from __future__ import annotations

import torch
from torch import Tensor

# One product, rounded once: every device, and numpy, gives the same float32 for the same byte.
_STEP = 1.0 / 255.0


def from_uint8(pixels: Tensor) -> Tensor:
    """Bytes k as float32 k/255, the values that frames of every source have."""
    return pixels.to(torch.float32, copy=True, memory_format=torch.contiguous_format).mul_(_STEP)


def quantise(frames: Tensor) -> Tensor:
    """The nearest of the 256 values that a byte can stand for, float32; values outside [0, 1] are clipped."""
    return from_uint8(_nearest(frames))


def to_uint8(frames: Tensor) -> Tensor:
    """Frames as bytes; `from_uint8` gives back the very same frames.

    Raises:
        ValueError: if a pixel is not one of the 256 values k/255 that `from_uint8` makes.
    """
    pixels = _nearest(frames)
    if frames.dtype != torch.float32 or not torch.equal(from_uint8(pixels), frames):
        raise ValueError(
            "expected float32 frames whose pixels are all k/255 for a byte k, as a file holds them exactly, got "
            f"{_worst(frames, pixels)}; pyro_sqair.data.quantise rounds frames to that"
        )
    return pixels


def _nearest(frames: Tensor) -> Tensor:
    return (frames * 255.0).round_().clamp_(0.0, 255.0).to(torch.uint8)


def _worst(frames: Tensor, pixels: Tensor) -> str:
    if frames.dtype != torch.float32:
        return str(frames.dtype)
    distance = torch.nan_to_num((frames - from_uint8(pixels)).abs(), nan=float("inf"))
    return f"a pixel of {float(frames.flatten()[distance.argmax()])}"
