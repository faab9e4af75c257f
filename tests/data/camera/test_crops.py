# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Places and times of crops, and the pixels and ground truth in them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyro_sqair.data import VideoConfig
from pyro_sqair.data.camera.crops import MIN_VISIBLE, Crop, cut_crops, plan_crops, present_rows
from pyro_sqair.data.camera.mot import Tracks
from pyro_sqair.data.camera.video_config import Part

SIZE = (100, 80)
CONFIG = VideoConfig(num_frames=3, crop=32)


def make_tracks(rows: list[tuple[int, int, Any, int]]) -> Tracks:
    """Tracks from (frame, id, box, label)."""
    frames, ids, boxes, labels = zip(*sorted(rows), strict=True) if rows else [()] * 4
    frames, ids, labels = (np.array(field, np.int64) for field in (frames, ids, labels))
    return Tracks(frames, ids, np.array(boxes, float).reshape(-1, 4), labels, Path("gt.txt"))


def random_tracks(length: int = 40, objects: int = 4, seed: int = 0) -> Tracks:
    """Objects at independent random places in each frame; each is missing in a fifth of them."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(-4, (SIZE[0] - 6, SIZE[1] - 6), (length, objects, 2))
    boxes = np.concatenate([low, rng.uniform(4, 16, (length, objects, 2))], -1)
    return make_tracks([(t, i, tuple(boxes[t, i]), i) for t, i in np.argwhere(rng.random((length, objects)) < 0.8)])


def counts(tracks: Tracks, crop: Crop, config: VideoConfig) -> list[int]:
    """Objects in each frame of a crop, counted box by box."""
    found = [0] * config.num_frames
    times = [crop.start + t * config.frame_step for t in range(config.num_frames)]
    for frame, (left, top, width, height) in zip(tracks.frames.tolist(), tracks.boxes.tolist(), strict=True):
        x = min(left + width, crop.left + config.crop) - max(left, crop.left)
        y = min(top + height, crop.top + config.crop) - max(top, crop.top)
        if frame in times and x > 0 and y > 0 and x * y >= MIN_VISIBLE * width * height:
            found[times.index(frame)] += 1
    return found


def plan(tracks: Tracks, config: VideoConfig, wanted: int = 60, frames: range = range(40), seed: int = 0) -> list[Crop]:
    return plan_crops(tracks, Part("train", frames, wanted), SIZE, config, [seed])


def test_boxes_are_present_if_a_quarter_of_their_pixels_is_inside() -> None:
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.integers(-20, 60, (2000, 2)), rng.integers(1, 8, (2000, 2))], -1)
    y, x = np.mgrid[-40:80, -40:80]
    inside = (x >= 10) & (x < 42) & (y >= 5) & (y < 37)
    expected = []
    for left, top, width, height in boxes.tolist():
        pixels = (x >= left) & (x < left + width) & (y >= top) & (y < top + height)
        assert pixels.sum() == width * height
        expected.append(4 * (pixels & inside).sum() >= pixels.sum())
    tracks = make_tracks([(0, i, tuple(box), 0) for i, box in enumerate(boxes.tolist())])
    np.testing.assert_array_equal(present_rows(tracks, Crop(0, 10, 5), CONFIG), np.flatnonzero(expected))


@pytest.mark.parametrize("crops", ["random", "tracked"])
@pytest.mark.parametrize(("low", "high", "step"), [(1, 2, 1), (0, 1, 1), (2, 2, 2), (1, None, 3)])
def test_crops_show_as_many_objects_as_asked(crops: Any, low: int, high: int | None, step: int) -> None:
    tracks = random_tracks()
    config = replace(CONFIG, crops=crops, min_objects=low, max_objects=high, frame_step=step)
    found = plan(tracks, config, frames=range(5, 35))
    assert len(found) == len(set(found)) == 60
    assert found == sorted(found)
    for crop in found:
        assert 5 <= crop.start and crop.start + 2 * step < 35
        assert 0 <= crop.left <= SIZE[0] - 32 and 0 <= crop.top <= SIZE[1] - 32
        assert low <= max(counts(tracks, crop, config)) <= (high or 4)
    cut = cut_crops(np.zeros((40, *SIZE[::-1], 1), np.uint8), found, tracks, 4, config)
    assert cut.count.T.tolist() == [counts(tracks, crop, config) for crop in found]
    # Without the bounds, crops with other numbers are found.
    free = plan(tracks, replace(config, min_objects=0, max_objects=None), frames=range(5, 35))
    assert any(not low <= max(counts(tracks, crop, config)) <= (high or 4) for crop in free) or crops == "tracked"


def test_random_crops_are_uniform_over_places_and_times() -> None:
    found = plan(make_tracks([]), replace(CONFIG, min_objects=0), wanted=8000, frames=range(22))
    starts, lefts, tops = (np.bincount(column) for column in np.array(found).T)
    assert len(starts) == 20 and np.abs(starts - 400).max() < 25  # in turns, except that duplicates are dropped
    assert len(lefts) == 69 and len(tops) == 49  # every corner for which the crop is inside
    for histogram in (lefts, tops):
        expected = 8000 / len(histogram)
        assert np.abs(histogram - expected).max() < 4.5 * expected**0.5  # standard errors of a Poisson count


def test_tracked_crops_have_an_object_near_their_middle() -> None:
    tracks = random_tracks()
    found = plan(tracks, replace(CONFIG, crops="tracked"))
    for crop in found:
        boxes = tracks.boxes[tracks.frames == crop.start + 1]
        # Up to a quarter of the side from the middle and half a pixel, except at the edge of the frame.
        centred = np.clip(boxes[:, :2] + boxes[:, 2:] / 2 - 16, 0, np.array(SIZE) - 32)
        assert (np.abs(centred - [crop.left, crop.top]).max(-1) <= 8.5).any()
    assert np.array(found)[:, 1:].std(0).min() > 10  # at different places
    alone = make_tracks([(7, 1, (40, 30, 8, 8), 0)])
    assert {crop.start for crop in plan(alone, replace(CONFIG, crops="tracked"), 5)} == {6}


@pytest.mark.parametrize("stride", [1, 3, 50])
def test_crops_start_at_every_stride_and_a_seed_fixes_them(stride: int) -> None:
    tracks, config, frames = random_tracks(), replace(CONFIG, stride=stride), range(4, 40)
    found = plan(tracks, config, 300, frames)
    assert {crop.start for crop in found} == set(range(4, 38, stride))
    assert found == plan(tracks, config, 300, frames) != plan(tracks, config, 300, frames, seed=1)


def test_when_there_are_no_more_crops() -> None:
    tracks = make_tracks([(t, 1, (50, 40, 5, 5), 0) for t in range(4)])
    with pytest.warns(
        UserWarning, match="1000 random crops with 1 to 3 objects in frames 1 to 4, for train, found only 138"
    ):
        found = plan(tracks, replace(CONFIG, crop=78), 1000, range(4))
    assert len(found) == 23 * 3 * 2  # places and first frames
    with pytest.raises(ValueError, match="expected 60 random crops with 1 to inf objects .* found only 0"):
        plan(make_tracks([]), replace(CONFIG, max_objects=None))


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_those_of_the_crop(channels: int, step: int) -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (40, 20, 30, channels), dtype=np.uint8)
    crops = [Crop(*draw) for draw in rng.integers(0, (40 - 2 * step, 23, 13), (50, 3)).tolist()]
    cut = cut_crops(pictures, crops, None, 2, replace(CONFIG, frame_step=step, crop=8))
    for b, crop in enumerate(crops):
        times = slice(crop.start, crop.start + 2 * step + 1, step)
        expected = pictures[times, crop.top : crop.top + 8, crop.left : crop.left + 8]
        np.testing.assert_array_equal((cut.frames[:, b] * 255).round().byte().movedim(1, -1).numpy(), expected)
    assert (cut.count == -1).all() and (cut.ids == -1).all() and (cut.labels == -1).all()
    assert cut.present.shape == (3, 50, 2) and not cut.present.any() and not cut.boxes.any()


def test_ground_truth_of_a_crop_by_hand() -> None:
    tracks = make_tracks(
        [
            (4, 2, (20, 20, 5, 5), 9),  # a frame before the crop
            (5, 70, (30, 12, 4, 8), 1),
            (7, 70, (32, 12, 4, 8), 1),  # frame 6 is stepped over
            (6, 70, (0, 0, 1, 1), 1),
            (7, 5, (7, 14, 4, 4), 3),  # 1 of 4 columns inside: exactly a quarter
            (9, 5, (6.9, 14, 4, 4), 3),  # less
            (9, 6, (38, 40, 4, 4), 4),  # a quarter again, at the other corner
        ]
    )
    crops = [Crop(start=0, left=0, top=0), Crop(start=5, left=10, top=10)]
    cut = cut_crops(np.zeros((10, *SIZE[::-1], 1), np.uint8), crops, tracks, 4, replace(CONFIG, frame_step=2)).slice(
        [1]
    )
    yes, no, none = True, False, [0.0] * 4
    assert cut.present[:, 0].tolist() == [[yes, no, no, no], [yes, yes, no, no], [no, no, yes, no]]
    assert cut.count[:, 0].tolist() == [1, 2, 1]
    assert cut.ids[:, 0].tolist() == [[70, -1, -1, -1], [70, 5, -1, -1], [-1, -1, 6, -1]]
    assert cut.labels[0].tolist() == [1, 3, 4, -1]
    assert cut.boxes[:, 0].tolist() == [
        [[20, 2, 4, 8], none, none, none],
        [[22, 2, 4, 8], [-3, 4, 4, 4], none, none],
        [none, none, [28, 30, 4, 4], none],
    ]
