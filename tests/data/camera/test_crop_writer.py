# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Crops cut from a passing video are those one would cut with all of it in memory."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pyro_sqair.data import SequenceDataset, SequenceWriter, VideoConfig
from pyro_sqair.data.camera.crop_writer import CropWriter
from pyro_sqair.data.camera.crops import Crop, CropTracks

CONFIG = VideoConfig(num_frames=3, crop=8)


def write(
    path: Path, pictures: np.ndarray, plan: list[Crop], truth: list[CropTracks] | None, config: VideoConfig
) -> int:
    """Passes all pictures by; how many of them were taken."""
    taken = 0
    with SequenceWriter(path, num_frames=3, image_size=(8, 8), channels=pictures.shape[-1], max_objects=4) as file:
        writer = CropWriter(file, plan, truth, config, max_objects=4)
        for t, picture in enumerate(pictures):
            assert bool(writer)
            if writer.takes(t):
                writer.add(t, picture)
                taken += 1
            if not writer:
                break
        writer.flush()
        assert not writer
    return taken


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_crops_are_cut_where_and_when_they_should_be(tmp_path: Path, channels: int, step: int) -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (40, 20, 30, channels), dtype=np.uint8)
    draws = zip(*(rng.integers(0, high, 200).tolist() for high in (40 - 2 * step, 23, 13)), strict=True)
    plan = sorted(Crop(*draw) for draw in draws)  # more than are written at a time
    write(tmp_path / "a.h5", pictures, plan, None, replace(CONFIG, frame_step=step))
    frames = SequenceDataset(tmp_path / "a.h5").read().frames
    for b, crop in enumerate(plan):
        times = slice(crop.start, crop.start + 2 * step + 1, step)
        expected = pictures[times, crop.top : crop.top + 8, crop.left : crop.left + 8]
        np.testing.assert_array_equal((frames[:, b] * 255).round().byte().movedim(1, -1).numpy(), expected)


def test_only_the_frames_that_are_needed_are_taken(tmp_path: Path) -> None:
    pictures = np.zeros((40, 20, 30, 1), np.uint8)
    plan = [Crop(5, 0, 0), Crop(6, 0, 0), Crop(30, 1, 1)]
    assert write(tmp_path / "a.h5", pictures, plan, None, replace(CONFIG, frame_step=3)) == 9


def test_truth_goes_into_the_first_slots(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = []
    for m in (0, 1, 4):
        present = rng.random((3, m)) < 0.5
        ids = np.where(present, rng.integers(0, 99, m), -1)
        boxes = np.where(present[..., None], rng.normal(size=(3, m, 4)), 0.0).astype(np.float32)
        truth.append(CropTracks(present, boxes, ids, rng.integers(0, 9, m)))
    write(tmp_path / "a.h5", np.zeros((5, 8, 8, 1), np.uint8), [Crop(0, 0, 0)] * 3, truth, CONFIG)
    read = SequenceDataset(tmp_path / "a.h5").read()
    for b, found in enumerate(truth):
        m = len(found.labels)
        for name in ("present", "boxes", "ids"):
            np.testing.assert_array_equal(getattr(read, name)[:, b, :m].numpy(), getattr(found, name))
        np.testing.assert_array_equal(read.labels[b, :m].numpy(), found.labels)
        assert not read.present[:, b, m:].any() and not read.boxes[:, b, m:].any()
        assert (read.ids[:, b, m:] == -1).all() and (read.labels[b, m:] == -1).all()
        assert read.count[:, b].tolist() == found.present.sum(-1).tolist()


def test_without_truth_the_count_is_unknown(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", np.zeros((5, 8, 8, 1), np.uint8), [Crop(0, 0, 0)], None, CONFIG)
    read = SequenceDataset(tmp_path / "a.h5").read()
    assert (read.count == -1).all() and not read.present.any() and (read.labels == -1).all()
