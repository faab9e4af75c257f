# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pyro_sqair.training import load_checkpoint, load_weights, save_checkpoint


def payload(module: nn.Module, average: dict[str, torch.Tensor] | None = None, **changes: Any) -> dict[str, Any]:
    entries = {
        "format": 1,
        "identity": {"name": "toy", "prior": {"units": 8, "kind": "rnn"}},
        "config": {},
        "step": 3,
        "weights": dict(module.state_dict()),
        "average": average,
    }
    return entries | changes


def toy(units: int = 2) -> nn.ModuleDict:
    """A model, and a guide that shares the model's only layer and has one of its own."""
    shared = nn.Linear(units, 2)
    return nn.ModuleDict(
        {
            "model": nn.ModuleDict({"layer": shared}),
            "guide": nn.ModuleDict({"mine": nn.Linear(2, 1), "its": shared}),
        }
    )


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_round_trip(tmp_path: Path) -> None:
    module = toy()
    saved = payload(module, random={"cpu": torch.get_rng_state()}, pairs=((1, 2), [3.5, None]))
    save_checkpoint(tmp_path / "a.pt", saved)
    loaded = load_checkpoint(tmp_path / "a.pt", saved["identity"])
    assert same(loaded.pop("weights"), saved.pop("weights"))
    assert torch.equal(loaded.pop("random")["cpu"], saved.pop("random")["cpu"])
    assert loaded == saved
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


def test_a_failing_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = toy()
    path = tmp_path / "a.pt"
    save_checkpoint(path, payload(module))
    before = path.read_bytes()

    with pytest.raises(Exception, match=r"[Pp]ickle"):
        save_checkpoint(path, payload(module, step=lambda: 0))
    assert path.read_bytes() == before

    def full_disk(entries: dict[str, Any], file: Path) -> None:
        file.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, payload(module, step=4))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


def test_a_payload_without_its_parts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got one without \['average', 'config'"):
        save_checkpoint(tmp_path / "a.pt", {"step": 1})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.9, -1])
def test_truncated_files_are_named(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, payload(toy(64)))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match=r"cannot be read as one: .*a.pt"):
        load_checkpoint(path)


def test_a_single_wrong_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    module = toy(64)
    save_checkpoint(path, payload(module))
    whole = bytearray(path.read_bytes())
    weights = module["model"]["layer"].weight.detach().numpy().tobytes()
    whole[whole.index(weights) + 17] ^= 1
    path.write_bytes(bytes(whole))
    with pytest.raises(ValueError, match=r"cannot be read as one: .*a.pt"):
        load_checkpoint(path)


def test_foreign_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_text("a letter to the reader")
    with pytest.raises(ValueError, match=r"cannot be read as one: .*a.pt"):
        load_checkpoint(path)
    torch.save(nn.Linear(2, 2), path)  # would run code of the file's choosing
    with pytest.raises(ValueError, match=r"cannot be read as one: .*a.pt"):
        load_checkpoint(path)
    torch.save({"weights": {}}, path)
    with pytest.raises(ValueError, match=r"got something else in .*a.pt"):
        load_checkpoint(path)
    save_checkpoint(path, payload(toy(), format=99))
    with pytest.raises(ValueError, match=r"expected checkpoint format 1, got 99 in .*a.pt"):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "b.pt")


def test_another_model_is_told_apart_entry_by_entry(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, payload(toy()))
    with pytest.raises(ValueError, match="checkpoint of this model") as error:
        load_checkpoint(path, {"name": "toy", "prior": {"units": 16, "kind": "rnn"}, "size": [2, 3]})
    lines = str(error.value).splitlines()[1:]
    assert lines == ["  prior.units: expected 16, got 8", "  size: expected [2, 3], got 'nothing'"]


def test_load_weights_prefers_the_average(tmp_path: Path) -> None:
    saved = toy()
    average = {name: torch.full_like(p, 0.5).detach() for name, p in saved.named_parameters()}
    save_checkpoint(tmp_path / "a.pt", payload(saved, average))

    plain = toy()
    load_weights(tmp_path / "a.pt", plain["model"], plain["guide"], averaged=False)
    assert same(plain.state_dict(), saved.state_dict())

    averaged = toy()
    assert load_weights(tmp_path / "a.pt", averaged["model"], averaged["guide"])["step"] == 3
    assert all((weight == 0.5).all() for weight in averaged.state_dict().values())


def test_weights_that_do_not_fit_change_nothing(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", payload(toy(3)))
    module = toy(2)
    before = copy.deepcopy(module.state_dict())
    message = re.escape("model.layer.weight: expected float32 [2, 2], got float32 [2, 3]")
    with pytest.raises(ValueError, match=message):
        load_weights(tmp_path / "a.pt", module["model"], module["guide"])
    with pytest.raises(ValueError, match=r"guide\.its\.bias: expected nothing, got float32 \[2\]"):
        load_weights(tmp_path / "a.pt", module["model"], nn.ModuleDict({"mine": module["guide"]["mine"]}))
    with pytest.raises(ValueError, match=r"expected float64 \[2\], got float32 \[2\]"):
        load_weights(tmp_path / "a.pt", copy.deepcopy(module["model"]).double(), module["guide"])
    assert same(module.state_dict(), before)
