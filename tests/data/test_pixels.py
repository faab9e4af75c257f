# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Exact conversion between bytes and floats."""

import numpy as np
import pytest
import torch

from pyro_sqair.data import from_uint8, quantise, to_uint8

BYTES = torch.arange(256, dtype=torch.uint8)


def test_every_byte_is_restored(device):
    pixels = from_uint8(BYTES.to(device))
    assert pixels.dtype == torch.float32 and torch.equal(to_uint8(pixels).cpu(), BYTES)
    assert pixels[0] == 0 and pixels[255] == 1 and bool((pixels.diff() > 0).all())


def test_numpy_gives_the_same_floats():
    expected = BYTES.numpy().astype(np.float32) * np.float32(1 / 255)
    assert torch.equal(from_uint8(BYTES), torch.from_numpy(expected))


def test_quantise_finds_the_nearest_of_all_256():
    generator = torch.Generator().manual_seed(1)
    frames = torch.rand(5000, generator=generator) * 1.2 - 0.1
    levels = from_uint8(BYTES)
    nearest = levels[(frames[:, None] - levels).abs().argmin(1)]
    assert torch.equal(quantise(frames), nearest)
    assert torch.equal(quantise(levels), levels)


@pytest.mark.parametrize("value", [0.5, 1.0 + 1 / 255, -1 / 255, float("nan"), float("inf"), 3 / 255 + 1e-6])
def test_pixels_that_are_not_k_255_are_refused(value):
    frames = from_uint8(BYTES)
    frames[17] = value
    with pytest.raises(
        ValueError, match=r"pixels are all k/255 .* got a pixel of .*; pyro_sqair.data.quantise"
    ) as caught:
        to_uint8(frames)
    assert f"a pixel of {float(frames[17])}" in str(caught.value)


def test_other_types_are_refused():
    with pytest.raises(ValueError, match="expected float32 frames .* got torch.float64"):
        to_uint8(torch.zeros(3, dtype=torch.float64))
