# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Sizes, splits and values of the configuration."""

from typing import Any

import pytest

from pyro_sqair.data import VideoConfig


def test_the_papers_figures_are_the_defaults() -> None:
    config = VideoConfig()
    assert (config.num_frames, config.sequences, config.size, config.crop) == (5, 3500, (240, 175), 64)
    assert (config.max_objects, config.crops, config.colour) == (3, "random", False)
    assert config.shares() == [3150, 350]


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
def test_frames_just_cover_the_size(video: tuple[int, int], keep_aspect: bool, expected: tuple[int, int]) -> None:
    assert VideoConfig(keep_aspect=keep_aspect).scaled_size(video) == expected


def test_a_crop_larger_than_the_frame() -> None:
    assert VideoConfig(crop=175).scaled_size((240, 175)) == (240, 175)
    with pytest.raises(ValueError, match="at most 175 px, for frames of 240x175 are scaled to 240x175, got 176 px"):
        VideoConfig(crop=176).scaled_size((240, 175))
    with pytest.raises(ValueError, match="at most 50 px, for frames of 90x50 are scaled to 90x50, got 64 px"):
        VideoConfig().scaled_size((90, 50))


@pytest.mark.parametrize("total", [50, 55, 99, 100, 795])
def test_parts_are_the_video_and_share_no_frame(total: int) -> None:
    train, validation = VideoConfig().parts(total)
    assert [*train, *validation] == list(range(total))
    assert len(validation) == round(0.1 * total)


def test_no_validation() -> None:
    config = VideoConfig(validation_fraction=0.0)
    assert config.parts(5) == [range(5)]
    assert config.shares() == [3500]


@pytest.mark.parametrize(("sequences", "expected"), [(10, [9, 1]), (3, [2, 1]), (2, [1, 1]), (1, [1, 1])])
def test_each_part_gets_a_sequence_at_least(sequences: int, expected: list[int]) -> None:
    assert VideoConfig(sequences=sequences).shares() == expected


def test_too_short_a_video() -> None:
    assert VideoConfig(frame_step=3).span == 13
    with pytest.raises(ValueError, match="a video of at least 13 frames, for sequences of 5 with a step of 3, got 12"):
        VideoConfig(frame_step=3).parts(12)
    with pytest.raises(ValueError, match="a video of at least 5 frames, for sequences of 5, got 0"):
        VideoConfig().parts(0)
    with pytest.raises(ValueError, match="at least 5 frames for validation, got 4 of 40 with validation_fraction=0.1"):
        VideoConfig().parts(40)
    with pytest.raises(ValueError, match="at least 5 frames for training, got 4 of 40 with validation_fraction=0.9"):
        VideoConfig(validation_fraction=0.9).parts(40)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, 0) for name in ("num_frames", "frame_step", "stride", "sequences", "crop", "warm_up")),
        ("samples", 1),
        ("validation_fraction", 1.0),
        ("validation_fraction", -0.1),
        ("validation_fraction", float("nan")),
        ("min_objects", -1),
        ("min_objects", 4),
        ("max_objects", 0),
        *((name, bad) for name in ("threshold", "noise", "blur", "min_area") for bad in (-1.0, float("inf"))),
        ("contrast", 1.1),
        ("seed", -1),
        ("size", (0, 10)),
        ("ground_truth_size", (768,)),
        ("crops", "anywhere"),
        ("background", "mean"),
    ],
)
def test_values_out_of_range(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"expected .*{field}"):
        VideoConfig(**{field: value})
