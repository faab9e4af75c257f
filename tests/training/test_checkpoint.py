# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Checkpoints are restored exactly; errors name damaged, foreign and incomplete files."""

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
def test_truncated_files(path: Path, kept: float) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match=r"cannot be read as one: .*a.pt"):
        load_checkpoint(path)


def test_wrong_bits_are_found(path: Path) -> None:
    """A wrong bit in the weights is an error. With any other, the file can be loaded or the error names it."""
    whole, generator, refused = path.read_bytes(), torch.Generator().manual_seed(0), 0
    weight = whole.index(payload()["weights"]["weight"].numpy().tobytes()) + 17
    for at in [weight, *torch.randint(len(whole), (60,), generator=generator).tolist()]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        try:
            load_checkpoint(path)
            assert at != weight
        except ValueError as error:
            assert "a.pt" in str(error)
            refused += 1
    assert refused > 30


def test_foreign_files(path: Path) -> None:
    for content, message in (
        (nn.Linear(2, 2), r"cannot be read as one: .*a.pt"),  # unpickling it would run code
        ({"weights": {}}, r"got something else in .*a.pt"),
        ({"format": 99}, r"expected checkpoint format 2, got 99 in .*a.pt"),
        ({"format": 2, "step": 1}, r"got one without \['average', 'config'"),
    ):
        torch.save(content, path)
        with pytest.raises(ValueError, match=message):
            load_checkpoint(path)
    path.write_text("a letter to the reader")
    for foreign in (path, path.parent):
        with pytest.raises(ValueError, match=f"cannot be read as one: {foreign}"):
            load_checkpoint(foreign)
    with pytest.raises(FileNotFoundError):
        load_checkpoint(path.with_name("b.pt"))
