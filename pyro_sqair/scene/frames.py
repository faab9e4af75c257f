# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""What counts as frames: checked once, where video enters a program."""

from __future__ import annotations

import torch
from torch import Tensor


def check_frames(frames: Tensor, channels: int, image_size: tuple[int, int], like: Tensor | None = None) -> None:
    """Checks the shape, dtype and device of a batch of video.

    Args:
        frames: expected floating point, shape ``[T, B, C, H, W]`` with B >= 1; T may be 0.
        channels: C, as the program was built.
        image_size: (H, W), as the program was built.
        like: a weight of the program, whose dtype and device frames must have; None if it has none.

    Raises:
        ValueError: says what was expected and what came.
    """
    _check_tensor(frames)
    if frames.dim() != 5:
        raise ValueError(f"expected frames of shape [T, B, C, H, W], got {list(frames.shape)}")
    expected = (channels, *image_size)
    if tuple(frames.shape[2:]) != expected:
        raise ValueError(
            f"expected frames of shape [T, B, {channels}, {image_size[0]}, {image_size[1]}], got {list(frames.shape)}"
        )
    if frames.shape[1] == 0:
        raise ValueError(f"expected at least one sequence in the batch, got frames of shape {list(frames.shape)}")
    if not frames.is_floating_point():
        raise ValueError(
            f"expected floating-point frames with values in [0, 1], got {frames.dtype}; for uint8 video divide by 255"
        )
    if like is not None and (frames.dtype != like.dtype or frames.device.type != like.device.type):
        raise ValueError(
            f"expected {like.dtype} frames on {like.device}, as the program's weights are, got {frames.dtype} on "
            f"{frames.device}; move one or the other with .to(...)"
        )


def check_values(frames: Tensor) -> None:
    """Checks that every pixel is a number in [0, 1]. Reads the data, so call it once, outside the training loop.

    Raises:
        ValueError: says what was expected and what came.
    """
    _check_tensor(frames)
    if frames.numel() == 0:
        return
    if not torch.isfinite(frames).all():
        count = int((~torch.isfinite(frames)).sum())
        raise ValueError(f"expected frames with finite values, got {count} NaN or infinite values")
    low, high = (value.item() for value in frames.aminmax())
    if low < 0 or high > 1:
        raise ValueError(
            f"expected frames with values in [0, 1], got values from {low:.4g} to {high:.4g}; "
            "for video in 0..255 divide by 255"
        )


def _check_tensor(frames: object) -> None:
    if not isinstance(frames, Tensor):
        raise ValueError(f"expected frames as a torch.Tensor, got {type(frames).__name__}")
