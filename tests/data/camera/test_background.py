# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Models of the background against scenes whose background is known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pyro_sqair.data.camera.background import Background, FrameSample, MedianBackground, OnlineBackground

cv2 = pytest.importorskip("cv2")

WIDTH, HEIGHT, SIDE = 80, 70, 16  # more rows than the median takes at a time, and not a multiple of them


def filmed(length: int = 40, level: int = 230, noise: float = 0.0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Frames [T, H, W, 3] of a square that crosses a textured scene, and the scene [H, W, 3]."""
    rng = np.random.default_rng(0)
    scene = rng.integers(60, 120, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    frames = scene + rng.normal(0.0, noise, (length, HEIGHT, WIDTH, 3)).round()
    for t in range(length):
        frames[t, 20 : 20 + SIDE, (left := corner(t)) : left + SIDE] = level
    return frames.clip(0, 255).astype(np.uint8), scene


def corner(t: int) -> int:
    """Where the left of the square is in frame t; it is above a pixel for 8 frames of 32 at most."""
    return (2 * t) % (WIDTH - SIDE)


def square(t: int) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[20 : 20 + SIDE, corner(t) : corner(t) + SIDE] = True
    return mask


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 250])
def test_a_sample_is_evenly_spaced_and_bounded(length: int) -> None:
    sample = FrameSample(8)
    for t in range(length):
        sample.add(np.full((1, 1, 3), t, np.uint8))
        assert len(sample.frames) <= 8
    taken = [int(frame[0, 0, 0]) for frame in sample.frames]
    every = taken[1] - taken[0] if len(taken) > 1 else 1
    assert taken == list(range(0, length, every))
    assert len(taken) >= min(length, 4)


def test_the_median_is_the_background_exactly() -> None:
    frames, scene = filmed()
    model = MedianBackground(list(frames), blur=0.0)
    np.testing.assert_array_equal(model.image, scene)
    assert model.image.dtype == np.uint8


def test_the_median_in_bands_is_the_median() -> None:
    frames = np.random.default_rng(1).integers(0, 256, (9, HEIGHT, WIDTH, 3)).astype(np.uint8)
    np.testing.assert_array_equal(MedianBackground(list(frames)).image, np.median(frames, 0))


@pytest.mark.parametrize("level", [0, 255])
def test_the_median_finds_dark_and_bright_exactly(level: int) -> None:
    frames, _ = filmed(level=level)
    model = MedianBackground(list(frames), threshold=50.0, blur=0.0)
    model.start(iter(frames))
    for t in (0, 5, 39):
        np.testing.assert_array_equal(model.mask(frames[t]), square(t))


def test_one_channel_is_enough() -> None:
    scene = np.full((4, 5, 3), 100, np.uint8)
    for channel in range(3):
        frame = scene.copy()
        frame[1, 2, channel] = 140
        mask = MedianBackground([scene], threshold=30.0, blur=0.0).mask(frame)
        assert mask.sum() == 1 and mask[1, 2]


def test_a_pixel_that_always_deviates_has_to_deviate_more() -> None:
    rope = np.zeros((6, 2, 3, 3), np.uint8) + 100
    rope[::2, 0, 0] += 40  # a pixel that is 100 and 140 in turns: median 120, median absolute deviation 20
    other = rope[0].copy()
    other[:] = 161
    for noise, expected in ((1.0, False), (0.5, True)):  # limits 30 + 20 and 30 + 10 against a difference of 41
        mask = MedianBackground(list(rope), threshold=30.0, noise=noise, blur=0.0).mask(other)
        assert mask[0, 0] == expected
        assert mask.sum() == 5 + expected


def test_the_limit_itself_is_background() -> None:
    scene = np.full((1, 2, 3), 100, np.uint8)
    frame = np.array([[[130] * 3, [131] * 3]], np.uint8)
    assert MedianBackground([scene], threshold=30.0, blur=0.0).mask(frame).tolist() == [[False, True]]


def test_blur_drops_single_pixels() -> None:
    scene = np.full((9, 9, 3), 100, np.uint8)
    frame = scene.copy()
    frame[4, 4] = 200
    assert MedianBackground([scene], blur=0.0).mask(frame).sum() == 1
    assert not MedianBackground([scene], blur=1.0).mask(frame).any()  # 100 / (2 pi) = 16 < 30


@pytest.mark.parametrize("kind", ["mog2", "knn"])
@pytest.mark.parametrize("level", [0, 250])
def test_online_models_find_what_moves_and_no_shadow(kind: str, level: int) -> None:
    frames, scene = filmed(16, level, noise=2.0)
    rng = np.random.default_rng(2)
    empty = (scene + rng.normal(0.0, 2.0, (80, *scene.shape)).round()).astype(np.uint8)
    model = OnlineBackground(kind, warm_up=80, blur=0.0)
    model.start(iter(empty))
    for t, frame in enumerate(frames):
        frame[50:60] = scene[50:60] * 0.7
        mask, truth = model.mask(frame), square(t)
        assert (mask & truth).sum() > 0.95 * truth.sum()
        assert mask[~truth].mean() < 0.01


@pytest.mark.parametrize("kind", ["median", "mog2", "knn"])
def test_passes_are_alike(kind: str) -> None:
    frames, _ = filmed(30, noise=6.0)
    model: Background = (
        MedianBackground(list(frames), threshold=15.0) if kind == "median" else OnlineBackground(kind, warm_up=10)
    )
    passes = []
    for _ in range(2):
        model.start(iter(frames))
        passes.append(np.stack([model.mask(frame) for frame in frames]))
    np.testing.assert_array_equal(*passes)
    assert model.adapts == (kind != "median")


def test_warm_up_reads_no_further_than_it_must() -> None:
    frames, _ = filmed(20)
    left = iter(frames)
    OnlineBackground("mog2", warm_up=8).start(left)
    assert len(list(left)) == 12


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="expected 'mog2' or 'knn', got 'mog'"):
        OnlineBackground("mog")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected at least one frame"):
        MedianBackground([])
    with pytest.raises(ValueError, match="expected room for at least 2 frames, got 1"):
        FrameSample(1)
