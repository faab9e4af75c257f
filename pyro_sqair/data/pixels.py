# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Exact conversion of pixels between bytes, as in files, and float32 in [0, 1], as in memory."""

from __future__ import annotations

import torch
from torch import Tensor

# A single product, so that all devices and NumPy give the same float32 for the same byte.
_STEP = 1.0 / 255.0


def from_uint8(pixels: Tensor) -> Tensor:
    """Converts bytes k to float32 k/255, the values of the frames of all sources."""
    return pixels.to(torch.float32, copy=True, memory_format=torch.contiguous_format).mul_(_STEP)


def quantise(frames: Tensor) -> Tensor:
    """Rounds frames to the nearest value k/255 for a byte k, float32; values outside [0, 1] are clipped."""
    return from_uint8(_nearest(frames))


def to_uint8(frames: Tensor) -> Tensor:
    """Converts frames to bytes; `from_uint8` restores them exactly.

    Raises:
        ValueError: if a pixel is not k/255 for a byte k.
    """
    pixels = _nearest(frames)
    if frames.dtype != torch.float32 or not torch.equal(from_uint8(pixels), frames):
        raise ValueError(
            "expected float32 frames whose pixels are all k/255 for a byte k, which a file stores exactly, got "
            f"{_worst(frames, pixels)}; pyro_sqair.data.quantise rounds frames to these values"
        )
    return pixels


def _nearest(frames: Tensor) -> Tensor:
    return (frames * 255.0).round_().clamp_(0.0, 255.0).to(torch.uint8)


def _worst(frames: Tensor, pixels: Tensor) -> str:
    if frames.dtype != torch.float32:
        return str(frames.dtype)
    distance = torch.nan_to_num((frames - from_uint8(pixels)).abs(), nan=float("inf"))
    return f"a pixel of {float(frames.flatten()[distance.argmax()])}"
