# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Which crops are drawn, and what the ground truth says in them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pyro_sqair.data import VideoConfig
from pyro_sqair.data.camera.crops import MIN_VISIBLE, Crop, box_rows, crop_tracks, plan_crops, visible_share
from pyro_sqair.data.camera.mot import Tracks

SIZE = (100, 80)
CONFIG = VideoConfig(num_frames=3, crop=32, sequences=10)

Boxes = list[NDArray[np.float64]]


def wandering(length: int = 40, objects: int = 4, seed: int = 0) -> Boxes:
    """Boxes of objects that jump about; a few are missing in each frame."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(-4, (SIZE[0] - 6, SIZE[1] - 6), (length, objects, 2))
    boxes = np.concatenate([low, rng.uniform(4, 16, (length, objects, 2))], -1)
    return [frame[rng.random(objects) < 0.8] for frame in boxes]


def counts(boxes: Boxes, crop: Crop, config: VideoConfig) -> list[int]:
    """Objects in each frame of a crop, counted box by box."""
    found = []
    for t in range(config.num_frames):
        number = 0
        for left, top, width, height in boxes[crop.start + t * config.frame_step]:
            x = min(left + width, crop.left + config.crop) - max(left, crop.left)
            y = min(top + height, crop.top + config.crop) - max(top, crop.top)
            number += x > 0 and y > 0 and x * y >= MIN_VISIBLE * width * height
        found.append(int(number))
    return found


def plan(boxes: Boxes, config: VideoConfig, wanted: int = 60, frames: range | None = None, seed: int = 0) -> list[Crop]:
    return plan_crops(boxes, frames or range(len(boxes)), wanted, SIZE, config, np.random.default_rng(seed))


def test_the_visible_share_is_that_of_pixels() -> None:
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.integers(-20, 60, (200, 2)), rng.integers(1, 30, (200, 2))], -1).astype(float)
    y, x = np.mgrid[-40:120, -40:120]
    inside = (x >= 10) & (x < 42) & (y >= 5) & (y < 37)
    for (left, top, width, height), share in zip(boxes, visible_share(boxes, 10, 5, 32), strict=True):
        pixels = (x >= left) & (x < left + width) & (y >= top) & (y < top + height)
        assert pixels.sum() == width * height
        assert share == pytest.approx((pixels & inside).sum() / pixels.sum(), abs=1e-12)


@pytest.mark.parametrize("crops", ["random", "tracked"])
@pytest.mark.parametrize(("low", "high", "step"), [(1, 2, 1), (0, 1, 1), (2, 2, 2), (1, None, 3)])
def test_crops_show_as_many_objects_as_asked(crops: str, low: int, high: int | None, step: int) -> None:
    boxes = wandering()
    config = replace(CONFIG, crops=crops, min_objects=low, max_objects=high, frame_step=step)
    found = plan(boxes, config, frames=range(5, 35))
    assert len(found) == len(set(found)) == 60
    assert found == sorted(found)
    for crop in found:
        assert 5 <= crop.start and crop.start + 2 * step < 35
        assert 0 <= crop.left <= SIZE[0] - 32 and 0 <= crop.top <= SIZE[1] - 32
        assert low <= max(counts(boxes, crop, config)) <= (high or 4)
    # The bounds bind: without them, others would have come.
    free = plan(boxes, replace(config, min_objects=0, max_objects=None), frames=range(5, 35))
    assert any(not low <= max(counts(boxes, crop, config)) <= (high or 4) for crop in free) or crops == "tracked"


def test_random_crops_are_uniform_over_places_and_times() -> None:
    config = replace(CONFIG, min_objects=0)
    found = plan([np.zeros((0, 4))] * 22, config, wanted=8000)
    starts, lefts, tops = (np.bincount(column) for column in np.array(found).T)
    assert len(starts) == 20 and np.abs(starts - 400).max() < 25  # they take turns, but repetitions drop out
    assert len(lefts) == 69 and len(tops) == 49  # every corner at which the crop is inside
    for histogram in (lefts, tops):
        expected = 8000 / len(histogram)
        assert np.abs(histogram - expected).max() < 4.5 * expected**0.5  # standard errors of a Poisson count


def test_tracked_crops_have_an_object_near_their_middle() -> None:
    boxes = wandering()
    found = plan(boxes, replace(CONFIG, crops="tracked"))
    for crop in found:
        middles = boxes[crop.start + 1][:, :2] + boxes[crop.start + 1][:, 2:] / 2
        # Up to a quarter of the side from the middle and half a pixel, unless the edge of the frame is in the way.
        wanted = np.clip(middles - 16, 0, np.array(SIZE) - 32)
        assert (np.abs(wanted - [crop.left, crop.top]).max(-1) <= 8.5).any()
    corners = np.array(found)[:, 1:]
    assert corners.std(0).min() > 10  # not always the same one


def test_tracked_crops_begin_only_where_something_is_to_track() -> None:
    boxes = [np.array([[40.0, 30.0, 8.0, 8.0]]) if t == 7 else np.zeros((0, 4)) for t in range(20)]
    assert {crop.start for crop in plan(boxes, replace(CONFIG, crops="tracked"))} == {6}


@pytest.mark.parametrize("stride", [1, 3, 50])
def test_stride(stride: int) -> None:
    starts = {crop.start for crop in plan(wandering(), replace(CONFIG, stride=stride), frames=range(4, 40), wanted=300)}
    assert starts == set(range(4, 38, stride))


def test_a_seed_fixes_the_plan() -> None:
    boxes = wandering()
    assert plan(boxes, CONFIG) == plan(boxes, CONFIG) != plan(boxes, CONFIG, seed=1)


def test_when_there_are_no_more_crops() -> None:
    config = replace(CONFIG, crop=78)  # 23 x 3 places and 2 frames to begin at
    boxes = [np.array([[50.0, 40.0, 5.0, 5.0]])] * 4
    found = plan_crops(boxes, range(4), 1000, (100, 80), config, np.random.default_rng(0))
    assert len(found) == 23 * 3 * 2
    assert plan([np.zeros((0, 4))] * 4, CONFIG) == []


def make_tracks(rows: list[tuple[int, int, tuple[float, float, float, float], int]]) -> Tracks:
    frames, ids, boxes, labels = zip(*sorted(rows), strict=True)
    return Tracks(np.array(frames), np.array(ids), np.array(boxes, float), np.array(labels), Path("gt.txt"))


def test_tracks_of_a_crop_by_hand() -> None:
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
    crop = Crop(start=5, left=10, top=10)
    found = crop_tracks(tracks, crop, replace(CONFIG, frame_step=2))
    assert found.present.tolist() == [[True, False, False], [True, True, False], [False, False, True]]
    assert found.ids.tolist() == [[70, -1, -1], [70, 5, -1], [-1, -1, 6]]
    assert found.labels.tolist() == [1, 3, 4]
    none = [0, 0, 0, 0]
    assert found.boxes.tolist() == [
        [[20, 2, 4, 8], none, none],
        [[22, 2, 4, 8], [-3, 4, 4, 4], none],
        [none, none, [28, 30, 4, 4]],
    ]
    assert [array.dtype for array in found] == [np.bool_, np.float32, np.int64, np.int64]


def test_a_crop_with_nobody() -> None:
    found = crop_tracks(make_tracks([(0, 1, (0, 0, 4, 4), 0)]), Crop(0, 50, 40), CONFIG)
    assert found.present.shape == (3, 0) and found.boxes.shape == (3, 0, 4) and found.labels.shape == (0,)


def test_planned_and_carried_counts_agree() -> None:
    boxes = wandering()
    rows = [(t, i, tuple(box), 0) for t, frame in enumerate(boxes) for i, box in enumerate(frame.tolist())]
    tracks = make_tracks(rows)
    np.testing.assert_array_equal(tracks.boxes[box_rows(tracks, 11)], boxes[11])
    for crop in plan(boxes, CONFIG):
        assert crop_tracks(tracks, crop, CONFIG).present.sum(-1).tolist() == counts(boxes, crop, CONFIG)
