# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""A full disk leaves the files of the last checkpoint, and no others; a run continues from them."""

import re
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from blinking import Bench, assert_identical, log, weights

from pyro_sqair.data.atomic import atomic_path
from pyro_sqair.training import load_weights
from pyro_sqair.training import weights as weights_file


@pytest.fixture
def largest_file() -> Iterator:
    """Sets the number of bytes beyond which writing a file fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["checkpoint.pt", "weights.safetensors", "log.jsonl"])
@pytest.mark.parametrize("saved", [8, None])
def test_full_disk(bench: Bench, monkeypatch, largest_file, capfd, name: str, saved: int | None) -> None:
    """The disk is full at step 16 (15 for the log)."""
    whole = bench.trainer("whole")
    assert whole.run()
    before: dict[str, bytes] = {}

    def fill(frames: torch.Tensor) -> None:
        before.update(contents(run.out))
        limit = {"checkpoint.pt": 1000, "weights.safetensors": 10**6, "log.jsonl": len(before["log.jsonl"]) + 10}
        largest_file(limit[name])
        if name == "weights.safetensors":
            monkeypatch.setattr(weights_file, "save", lambda *_: bytes(2 * 10**6))

    run = bench.trainer(checkpoint_every=8 if saved else 16, hooks={14: fill})
    with pytest.raises(OSError) as error:
        run.run()
    largest_file(resource.RLIM_INFINITY)
    monkeypatch.undo()
    message = str(error.value)
    assert "File too large, so this file was not written" in message and str(run.out / name) in message
    if name != "log.jsonl":
        kept = "the checkpoint of step 8 is kept" if saved else "there is no checkpoint"
        assert re.search(kept, message)
    after = contents(run.out)
    assert after.keys() == before.keys()
    assert all(after[file] == before[file] for file in after if file != "log.jsonl")

    again = bench.trainer(checkpoint_every=8, pair_seed=3 if saved else 0)  # else a new run
    if saved:
        load_weights(again.folder.weights, again.objective.model, again.objective.guide, again.identity)
        again.resume()
        assert again.step == 8
    assert again.complete()
    assert_identical(weights(again), weights(whole))
    assert log(again) == log(whole)


def test_temporary_files_of_a_killed_process_are_removed(bench: Bench) -> None:
    run = bench.trainer(steps=6)
    files = (run.checkpoint, run.folder.weights, run.folder.log, run.folder.experiment)
    left = []
    for path in files:
        with atomic_path(path) as temporary:
            temporary.write_text("")
        path.unlink()
        left.append(temporary)
    mine = [run.out / name for name in (".notes.0123abcd.pt", ".checkpoint.backup.pt")]
    for path in (*left, *mine):
        path.write_text("half")
    assert run.run()
    assert set(run.out.iterdir()) == {run.out / ".lock", *files, *mine}
