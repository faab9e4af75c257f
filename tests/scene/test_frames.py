# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""What is wrong with a batch of video is said at the door, with what was expected and what came."""

import math

import pytest
import torch

from pyro_sqair.scene.frames import check_frames, check_values

SHAPE = (3, 2, 1, 4, 5)


@pytest.mark.parametrize(
    "frames",
    [
        torch.rand(SHAPE),
        torch.rand(SHAPE).double(),
        torch.rand(SHAPE).half(),
        torch.rand(SHAPE)[:0],
        torch.full(SHAPE, torch.nan),  # values are not looked at here
    ],
)
def test_what_is_accepted(frames):
    assert check_frames(frames, 1, (4, 5)) is None


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.rand(SHAPE).numpy(), r"expected frames as a torch.Tensor, got ndarray"),
        (torch.rand(3, 2, 4, 5), r"expected frames of shape \[T, B, C, H, W\], got \[3, 2, 4, 5\]"),
        (torch.rand(3, 2, 3, 4, 5), r"expected .*\[T, B, 1, 4, 5\], got \[3, 2, 3, 4, 5\]"),
        (torch.rand(3, 2, 1, 5, 4), r"expected .*\[T, B, 1, 4, 5\], got \[3, 2, 1, 5, 4\]"),
        (torch.rand(3, 0, 1, 4, 5), r"expected at least one sequence .*\[3, 0, 1, 4, 5\]"),
        (torch.zeros(SHAPE, dtype=torch.uint8), r"expected floating-point .*got torch.uint8.*divide by 255"),
    ],
)
def test_wrong_frames(frames, message):
    with pytest.raises(ValueError, match=message):
        check_frames(frames, 1, (4, 5))


@pytest.mark.parametrize("frames", [torch.rand(SHAPE), torch.zeros(SHAPE), torch.ones(SHAPE), torch.rand(SHAPE)[:0]])
def test_values_that_are_accepted(frames):
    assert check_values(frames) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (math.nan, "finite values, got 1 NaN"),
        (math.inf, "finite values, got 1 NaN or infinite"),
        (-0.01, r"in \[0, 1\], got values from -0.01 to"),
        (1.5, r"in \[0, 1\], got values from .* to 1.5"),
        (200.0, "divide by 255"),
    ],
)
def test_wrong_values(value, message):
    frames = torch.rand(SHAPE)
    frames[1, 0, 0, 2, 3] = value
    with pytest.raises(ValueError, match=message):
        check_values(frames)
