# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Masks are cleaned, and what they show becomes bright on black, exactly where it should be."""

from collections.abc import Iterable

import numpy as np
import pytest
from numpy.typing import NDArray

from pyro_sqair.data.camera.foreground import Foreground, bright_on_black, clean_mask

cv2 = pytest.importorskip("cv2")


class Known:
    """A background model that is told the answer."""

    adapts = False

    def __init__(self, answer: NDArray[np.bool_]) -> None:
        self.answer = answer

    def start(self, frames: Iterable[NDArray[np.uint8]]) -> None:
        """Nothing to do."""

    def mask(self, frame: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """The answer."""
        assert frame.shape[:2] == self.answer.shape
        return self.answer


def test_specks_and_lines_go_and_gaps_close() -> None:
    body = np.zeros((40, 50), np.bool_)
    body[10:30, 20:32] = True
    dirty = body.copy()
    dirty[3, 4] = dirty[35, :] = True  # a speck, and a rope across the image
    dirty[20, 24:26] = False  # a gap
    cleaned, pieces = clean_mask(dirty, scale=2.0, min_area=10.0)
    inner = cv2.erode(body.astype(np.uint8), np.ones((3, 3))).astype(bool)
    assert cleaned[inner].all() and not cleaned[~body].any()
    assert pieces.tolist() == [[20.0, 10.0, 12.0, 20.0]]


def test_at_the_scale_of_the_picture_thin_limbs_stay() -> None:
    mask = np.zeros((12, 12), np.bool_)
    mask[2:10, 5] = True
    np.testing.assert_array_equal(clean_mask(mask, scale=1.0, min_area=1.0)[0], mask)
    assert not clean_mask(mask, scale=2.0, min_area=1.0)[0].any()


def test_small_pieces_go_by_area() -> None:
    mask = np.zeros((30, 40), np.bool_)
    mask[2:6, 2:6] = True  # 16
    mask[20:25, 20:24] = True  # 20
    for min_area, left in ((16.0, [2.0, 20.0]), (17.0, [20.0]), (20.0, [20.0]), (21.0, [])):
        cleaned, pieces = clean_mask(mask, scale=1.0, min_area=min_area)
        assert pieces[:, 0].tolist() == left
        assert cleaned.sum() == {2: 36, 1: 20, 0: 0}[len(left)]


@pytest.mark.parametrize(("contrast", "expected"), [(1.0, [255, 155, 0]), (0.5, [255, 205, 127]), (0.0, [255] * 3)])
def test_the_negative_on_black(contrast: float, expected: list[int]) -> None:
    frame = np.array([[0, 100, 255, 50]], np.uint8)[..., None].repeat(3, -1)
    mask = np.array([[True, True, True, False]])
    picture = bright_on_black(frame, mask, contrast, colour=False)
    assert picture.dtype == np.uint8
    assert picture[..., 0].tolist() == [[*expected, 0]]


def test_colours_are_red_green_blue_and_inverted() -> None:
    frame = np.array([[[10, 60, 200]]], np.uint8)  # blue, green, red
    assert bright_on_black(frame, np.ones((1, 1), np.bool_), 1.0, colour=True).tolist() == [[[55, 195, 245]]]


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_what_moves_is_where_it_should_be(factor: int, colour: bool) -> None:
    foreground = Foreground((40 * factor, 30 * factor), (40, 30), min_area=4.0, contrast=0.5, colour=colour)
    half = min(factor, 2)  # no more than twice the size of the picture is looked at
    assert foreground.working_size == (40 * half, 30 * half)
    assert foreground.scale == pytest.approx(half)
    mask = np.zeros((30 * half, 40 * half), np.bool_)
    mask[8 * half : 20 * half, 10 * half : 18 * half] = True
    frame = foreground.shrink(np.full((30 * factor, 40 * factor, 3), 55, np.uint8))
    moving = foreground.cut(frame, Known(mask))
    assert moving.pieces.tolist() == [[10.0, 8.0, 8.0, 12.0]]
    assert moving.picture.shape == (30, 40, 3 if colour else 1)
    # 255 - 0.5 * 55 is 227 or 228; the four corners lose a quarter of their pixels to the rounding of the mask.
    inside = moving.picture[8:20, 10:18].copy()
    assert np.isin(inside[1:-1], (227, 228)).all() and np.isin(inside[:, 1:-1], (227, 228)).all()
    moving.picture[8:20, 10:18] = 0
    assert not moving.picture.any()


def test_min_area_is_in_pixels_of_the_picture() -> None:
    mask = np.zeros((60, 80), np.bool_)
    mask[10:18, 10:18] = True  # 4 x 4 in the picture, less four corners of a quarter of a pixel: 15
    frame = np.zeros((60, 80, 3), np.uint8)
    for min_area, number in ((14.9, 1), (15.1, 0)):
        moving = Foreground((80, 60), (40, 30), min_area, contrast=0.5, colour=False).cut(frame, Known(mask))
        assert len(moving.pieces) == number


def test_sides_that_are_scaled_differently() -> None:
    foreground = Foreground((80, 30), (40, 30), min_area=4.0, contrast=0.0, colour=False)
    mask = np.zeros((30, 80), np.bool_)
    mask[10:20, 20:40] = True
    assert foreground.cut(np.zeros((30, 80, 3), np.uint8), Known(mask)).pieces.tolist() == [[10.0, 10.0, 10.0, 10.0]]
