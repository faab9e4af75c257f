# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""A fingerprint changes with the content of a file, and not with its place."""

import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from pyro_sqair.data import BouncingBalls, Fingerprint, RNEMDataset, SequenceDataset, four_balls, write_sequences
from pyro_sqair.data.files import fingerprint
from pyro_sqair.data.files.format import Layout


def of(path: Path) -> Fingerprint:
    return Fingerprint.of(SequenceDataset(path))


def test_content_not_place(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_sequences(path, BouncingBalls(four_balls()), 3, 2, 5, generator="balls", parameters={"b": 1, "a": 2})
    content = path.read_bytes()
    sizes = {"sequences": 3, "num_frames": 2, "image_size": (50, 50), "channels": 1}
    origin = {"generator": "balls", "seed": 5, "parameters": '{"a": 2, "b": 1}'}
    digest = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    first = of(path)
    assert asdict(first) == sizes | origin | digest
    assert of(path.rename(tmp_path / "moved.h5")) == first
    with h5py.File(tmp_path / "moved.h5", "r+") as file:
        file["labels"][0, 0] += 1
    changed = of(tmp_path / "moved.h5")
    assert changed != first and replace(changed, sha256=first.sha256, size=first.size) == first


def test_splits_and_the_name_of_an_rnem_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "balls.h5", "w") as file:
        for split, frames in (("training", 4), ("test", 5)):
            groups = np.zeros((frames, 2, 64, 64, 1), np.float32)
            groups[:, :, 20:30, 20:30] = 1
            for name in ("features", "groups", "collisions"):
                file[f"{split}/{name}"] = groups
            file[f"{split}/positions"] = np.full((frames, 2, 1, 2), 25.0, np.float32)
    training, test = (Fingerprint.of(RNEMDataset(tmp_path / "balls.h5", split)) for split in ("training", "test"))
    assert (training.num_frames, test.num_frames) == (4, 5) and training.sha256 == test.sha256
    moved = (tmp_path / "balls.h5").rename(tmp_path / "moved.h5")
    assert Fingerprint.of(RNEMDataset(moved, "training")) == training


def test_evenly_spaced_blocks_of_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "_MOST_HASHED", 12)
    monkeypatch.setattr(fingerprint, "_BLOCKS", 4)
    data = SimpleNamespace(path=tmp_path / "large", layout=Layout(9, 9, (9, 9), 1, 2, False, "film", None, {}))
    for content, hashed in (
        (bytes(range(12)), bytes(range(12))),
        (bytes(range(33)), bytes([0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32])),
    ):
        data.path.write_bytes(content)
        found = Fingerprint.of(data)
        assert (found.size, found.sha256) == (len(content), hashlib.sha256(hashed).hexdigest())
