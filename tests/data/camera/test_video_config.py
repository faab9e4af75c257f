# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Sizes, splits and ranges of the configuration."""

from typing import Any

import pytest

from pyro_sqair.data import VideoConfig


@pytest.mark.parametrize(
    ("video", "keep_aspect", "expected"),
    [
        ((480, 360), True, (240, 180)),
        ((1920, 1080), True, (311, 175)),
        ((1080, 1920), True, (240, 427)),
        ((240, 175), True, (240, 175)),
        ((100, 80), True, (100, 80)),  # never enlarged
        ((1920, 1080), False, (240, 175)),
        ((100, 80), False, (240, 175)),
    ],
)
def test_scaled_frames_cover_the_size(video: tuple[int, int], keep_aspect: bool, expected: tuple[int, int]) -> None:
    assert VideoConfig(keep_aspect=keep_aspect).scaled_size(video) == expected


@pytest.mark.parametrize("total", [50, 55, 99, 100, 795])
def test_parts_cover_the_video_and_share_no_frame(total: int) -> None:
    train, validation = VideoConfig().parts(total)
    assert [*train.frames, *validation.frames] == list(range(total))
    assert len(validation.frames) == round(0.1 * total)
    assert (train.sequences, validation.sequences) == (3150, 350)
    assert VideoConfig(validation_fraction=0.0).parts(total) == [("train", range(total), 3500)]


def test_each_part_gets_at_least_one_sequence() -> None:
    for sequences, expected in ((10, [9, 1]), (3, [2, 1]), (2, [1, 1]), (1, [1, 1])):
        assert [part.sequences for part in VideoConfig(sequences=sequences).parts(50)] == expected


def test_a_short_video_and_a_crop_larger_than_the_frame_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 13 frames in the train part, got 12 of 12"):
        VideoConfig(frame_step=3, validation_fraction=0.0).parts(12)
    with pytest.raises(ValueError, match="at least 5 frames in the validation part, got 4 of 40"):
        VideoConfig().parts(40)
    with pytest.raises(ValueError, match="at least 5 frames in the train part, got 4 of 40"):
        VideoConfig(validation_fraction=0.9).parts(40)
    assert VideoConfig(crop=175).scaled_size((240, 175)) == (240, 175)
    with pytest.raises(ValueError, match="at most 175 px, for frames of 480x350 scaled to 240x175, got 176 px"):
        VideoConfig(crop=176).scaled_size((480, 350))
    assert VideoConfig(blur=175.0).scaled_size((240, 175)) == (240, 175)
    with pytest.raises(ValueError, match="a blur of at most 175 px, for frames of 480x350 .*, got 1000000.0 px"):
        VideoConfig(blur=1e6).scaled_size((480, 350))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, 0) for name in ("num_frames", "frame_step", "stride", "sequences", "crop")),
        *(("validation_fraction", bad) for bad in (1.0, -0.1, float("nan"))),
        *(("min_objects", bad) for bad in (-1, 4)),
        ("max_objects", 0),
        *((name, bad) for name in ("threshold", "noise", "blur", "min_area") for bad in (-1.0, float("inf"))),
        ("contrast", 1.1),
        ("seed", -1),
        ("size", (0, 10)),
        ("size", (100_000, 100_000)),
        ("ground_truth_size", (768,)),
        ("crops", "anywhere"),
        ("background", "mean"),
    ],
)
def test_values_out_of_range_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"expected .*{field}"):
        VideoConfig(**{field: value})
