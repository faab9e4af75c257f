# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Checkpoints come back as they were, and damaged, foreign or half-written ones are named."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pyro_sqair.training.checkpoint import load_checkpoint, save_checkpoint


def payload(**changes: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    entries = {
        "identity": {"name": "toy", "prior": {"units": 8}},
        "config": {},
        "step": 3,
        "weights": dict(nn.Linear(64, 2).state_dict()),
        "random": {"cpu": torch.get_rng_state()},
        "sums": torch.zeros(3),
    }
    rest = ("optimizer", "estimator", "average", "logged", "skipped", "metrics", "seconds")
    return entries | dict.fromkeys(rest) | changes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "a.pt", payload(pairs=((1, 2), [3.5, None])))
    return tmp_path / "a.pt"


def test_round_trip(path: Path) -> None:
    saved, loaded = payload(pairs=((1, 2), [3.5, None])), load_checkpoint(path)
    for name, field in (("weights", "bias"), ("random", "cpu")):
        assert torch.equal(loaded.pop(name)[field], saved.pop(name)[field])
    assert torch.equal(loaded.pop("sums"), saved.pop("sums"))
    assert loaded.pop("format") == 2
    assert loaded == saved
    assert [file.name for file in path.parent.iterdir()] == ["a.pt"]


def test_a_failing_save_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()
    with pytest.raises(Exception, match=r"[Pp]ickle"):
        save_checkpoint(path, payload(step=lambda: 0))
    assert path.read_bytes() == before

    def full_disk(entries: dict[str, Any], file: Path) -> None:
        file.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, payload(step=4))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.9, -1])
def test_truncated_files_are_named(path: Path, kept: float) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match=r"cannot be read as one: .*a.pt"):
        load_checkpoint(path)


def test_a_single_wrong_bit_is_found(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[whole.index(payload()["weights"]["weight"].numpy().tobytes()) + 17] ^= 1
    path.write_bytes(bytes(whole))
    with pytest.raises(ValueError, match=r"cannot be read as one: .*a.pt"):
        load_checkpoint(path)


def test_foreign_files_are_named(path: Path) -> None:
    path.write_text("a letter to the reader")
    with pytest.raises(ValueError, match=r"cannot be read as one: .*a.pt"):
        load_checkpoint(path)
    torch.save(nn.Linear(2, 2), path)  # would run code of the file's choosing
    with pytest.raises(ValueError, match=r"cannot be read as one: .*a.pt"):
        load_checkpoint(path)
    torch.save({"weights": {}}, path)
    with pytest.raises(ValueError, match=r"got something else in .*a.pt"):
        load_checkpoint(path)
    torch.save({"format": 99}, path)
    with pytest.raises(ValueError, match=r"expected checkpoint format 2, got 99 in .*a.pt"):
        load_checkpoint(path)
    torch.save({"format": 2, "step": 1}, path)
    with pytest.raises(ValueError, match=r"got one without \['average', 'config'"):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        load_checkpoint(path.with_name("b.pt"))
