# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Checkpoints are restored exactly; errors name damaged, foreign and incomplete files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pyro_sqair.training.checkpoint import load_checkpoint, write_checkpoint


def payload(**changes: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    entries = {
        "identity": {"name": "toy", "prior": {"units": 8}},
        "config": {},
        "step": 3,
        "weights": dict(nn.Linear(64, 2).state_dict()),
        "optimizer": {},
        "unused": [],
        "estimator": {},
        "average": None,
        "random": {"cpu": torch.get_rng_state()},
        "sums": torch.zeros(3),
        "skipped": 1,
        "metrics": {"bound": 0.5},
        "seconds": 2.5,
    }
    return entries | changes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "a.pt", payload(pairs=((1, 2), [3.5, None])))
    return tmp_path / "a.pt"


def test_round_trip(path: Path) -> None:
    saved, loaded = payload(pairs=((1, 2), [3.5, None])), load_checkpoint(path)
    for name, field in (("weights", "bias"), ("weights", "weight"), ("random", "cpu")):
        assert torch.equal(loaded[name].pop(field), saved[name].pop(field))
    assert torch.equal(loaded.pop("sums"), saved.pop("sums"))
    assert loaded.pop("format") == 3
    assert loaded == saved


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
        ({"format": 99}, r"expected checkpoint format 3, got 99 in .*a.pt"),
        ({"format": torch.tensor([3, 3])}, r"expected checkpoint format 3, got tensor.* in .*a.pt"),
        ({"format": 3, "step": 1}, r"got one without \['average', 'config'"),
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
