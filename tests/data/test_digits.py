# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Cropping digits to their bounding boxes, and the digits of scikit-learn."""

import sys

import pytest
import torch

from pyro_sqair.data import embedded_digits
from pyro_sqair.data.digits import crop_digits


def slow_crop(image):
    """Rows and columns between the first and the last non-zero pixel, by plain loops."""
    rows = [y for y in range(image.shape[0]) if any(image[y, x] > 0 for x in range(image.shape[1]))]
    cols = [x for x in range(image.shape[1]) if any(image[y, x] > 0 for y in range(image.shape[0]))]
    return image[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]


def random_images(count, height, width, seed):
    """Sparse noise, whose bounding boxes have all sizes and positions."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(1, 256, (count, height, width), generator=generator)
    ink = torch.rand(count, height, width, generator=generator) < 0.06
    ink[:, height // 2, width // 2] = True
    return (values * ink).to(torch.uint8)


@pytest.mark.parametrize("shape", [(9, 7), (6, 11), (8, 8)])
def test_crop_agrees_with_plain_loops(shape):
    images = random_images(60, *shape, seed=0)
    digits = crop_digits(images, torch.arange(60))
    side = digits.images.shape[-1]
    assert side == max(int(digits.heights.max()), int(digits.widths.max()))
    for m, image in enumerate(images):
        expected = slow_crop(image)
        assert (digits.heights[m], digits.widths[m]) == expected.shape
        padded = torch.zeros(side, side, dtype=torch.uint8)
        padded[: expected.shape[0], : expected.shape[1]] = expected
        assert torch.equal(digits.images[m], padded)


@pytest.mark.parametrize(("split", "size"), [("train", 1540), ("test", 257)])
def test_embedded_digits(split, size):
    digits = embedded_digits(split)
    assert digits.images.shape == (size, 20, 20) and digits.images.dtype == torch.uint8
    assert digits.images.min() == 0 and bool((digits.images.amax((1, 2)) == 255).all())
    assert digits.labels.bincount().min() > 0.07 * size and digits.labels.max() == 9
    assert digits.heights.float().mean() > 18 and digits.widths.min() >= 5
    again = embedded_digits(split)
    assert all(torch.equal(a, b) for a, b in zip(digits, again, strict=True))


def test_enlarging_keeps_the_digit():
    """Averaged to 8x8, a digit is nearest to its own original."""
    from sklearn.datasets import load_digits

    originals = torch.as_tensor(load_digits().images, dtype=torch.float32)[::7] / 16
    digits = embedded_digits("test")
    for m in range(0, len(originals), 5):
        width = int(digits.widths[m])
        # The position of the crop in the 20x20 square is unknown: try all.
        places = torch.stack([digits.images[m].roll(shift, 1) for shift in range(20 - width + 1)]) / 255
        shrunk = torch.nn.functional.interpolate(places[:, None], size=(8, 8), mode="area")
        distance = (originals - shrunk).square().sum((2, 3)).amin(0)
        assert int(distance.argmin()) == m


def test_train_and_test_are_disjoint_and_complete():
    train, test = embedded_digits("train"), embedded_digits("test")
    seen = {image.numpy().tobytes() for image in train.images}
    assert not any(image.numpy().tobytes() in seen for image in test.images)
    assert len(train.labels) + len(test.labels) == 1797


def test_an_unknown_split_and_missing_scikit_learn_are_named(monkeypatch):
    with pytest.raises(ValueError, match="expected split to be one of 'train', 'test', got 'validation'"):
        embedded_digits("validation")
    for name in ("sklearn", "sklearn.datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'pyro_sqair\[digits\]'"):
        embedded_digits("train")
