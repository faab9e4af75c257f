# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""What a file is said to hold."""

import pytest
import torch

from pyro_sqair.data import SequenceWriter, summarise


def test_everything_is_told(tmp_path, make_sequences):
    path = tmp_path / "a.h5"
    batches = [make_sequences(30, seed=seed) for seed in range(3)]
    batches[0].count[1, :5] = -1
    with SequenceWriter(
        path,
        num_frames=4,
        image_size=(5, 7),
        max_objects=3,
        generator="test",
        seed=3,
        parameters={"a": [1]},
        physics=True,
    ) as writer:
        for batch in batches:
            writer.append(batch)
    summary = summarise(path)
    assert (summary.path, summary.version, summary.bytes_on_disk) == (path, 1, path.stat().st_size)
    assert summary.layout == (90, 4, 5, 7, 1, 3, True, "test", 3, {"a": [1]})
    counts = torch.cat([batch.count.flatten() for batch in batches]).tolist()
    assert summary.count_histogram == {count: counts.count(count) for count in (-1, 0, 1, 2, 3)}
    # A frame: 35 pixels, 35 collisions, an event, count, and of each object presence, box, id, position, velocity.
    assert summary.bytes_unpacked == 90 * (4 * (35 + 35 + 1 + 8 + 3 * (1 + 16 + 8 + 8 + 8)) + 3 * 8)
    shown = str(summary)
    for part in (
        str(path),
        "sequences  90 of 4 frames",
        "frames     5 x 7 px, 1 channel\n",
        f"unknown: {5 / 360:.1%}, 0: {counts.count(0) / 360:.1%}",
        "physics    positions, velocities, collisions and events",
        "generator  test",
        "seed       3",
        'parameters {"a": [1]}',
        " MB on disk, 0.1 MB in memory",
    ):
        assert part in shown


def test_what_is_not_known_is_told(tmp_path, make_sequences):
    path = tmp_path / "a.h5"
    with SequenceWriter(path, num_frames=4, image_size=(5, 7), channels=3, max_objects=3) as writer:
        writer.append(make_sequences(1, channels=3))
    shown = str(summarise(path))
    for part in ("3 channels", "physics    none", "generator  unknown", "seed       none", "parameters {}"):
        assert part in shown


def test_a_bad_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="found nothing"):
        summarise(tmp_path / "a.h5")
    (tmp_path / "a.h5").write_text("no")
    with pytest.raises(ValueError, match="got something else"):
        summarise(tmp_path / "a.h5")
