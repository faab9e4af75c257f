# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Weights in safetensors are restored exactly; files that are damaged, foreign or of another model are errors."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from pyro_sqair.training import load_weights, save_weights
from pyro_sqair.training.weights import read_header

IDENTITY = {"name": "toy", "prior": {"units": 8, "kind": "rnn"}}


class Pair(nn.Module):
    """A model, and a guide that shares the model's only layer and has one of its own."""

    def __init__(self, units: int = 2) -> None:
        super().__init__()
        shared = nn.Linear(units, 2)
        self.model = nn.ModuleDict({"layer": shared})
        self.guide = nn.ModuleDict({"mine": nn.BatchNorm1d(2), "its": shared})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.safetensors"


def save(path: Path, units: int = 2) -> Pair:
    pair = Pair(units)
    save_weights(path, pair.model, pair.guide, IDENTITY, step=7)
    return pair


def load(path: Path, pair: Pair, identity: dict = IDENTITY) -> None:
    load_weights(path, pair.model, pair.guide, identity)


def same(left: nn.Module, right: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left.state_dict().values(), right.state_dict().values(), strict=True))


def test_round_trip_stores_shared_tensors_once(path: Path) -> None:
    pair, other = save(path), Pair()
    pair.guide["mine"].running_mean.add_(3.0)
    save_weights(path, pair.model, pair.guide, IDENTITY, step=8)
    load(path, other)
    assert same(pair, other)
    assert read_header(path)[:2] == (8, IDENTITY)
    assert sorted(name for name in load_file(path) if "layer" in name or "its" in name) == [
        "model.layer.bias",
        "model.layer.weight",
    ]
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert oct(path.stat().st_mode & 0o444) == oct(0o444)  # as readable as any other file


def test_truncated_files(path: Path) -> None:
    save(path)
    whole = path.read_bytes()
    for kept in (0, 1, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=r"got a damaged or foreign file .*weights.safetensors"):
            load(path, Pair())


def test_wrong_bits_are_found(path: Path) -> None:
    pair = save(path)
    whole, found = path.read_bytes(), 0
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        other = Pair()
        before = copy.deepcopy(other)
        try:
            load(path, other)
            assert same(other, pair)  # a bit that the weights do not depend on, such as one of padding
        except ValueError as error:
            assert "weights.safetensors" in str(error)
            assert same(other, before)
            found += 1
    assert found > 0.9 * len(whole) / 7


def test_edited_tensors(path: Path) -> None:
    save(path)
    with safe_open(path, framework="pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    save_file(tensors | {"guide.mine.weight": tensors["guide.mine.weight"] + 1}, path, header)
    with pytest.raises(ValueError, match="expected weights with the stored checksum"):
        load(path, Pair())


def test_weights_of_another_model(path: Path) -> None:
    save(path, 3)
    module = Pair()
    before = copy.deepcopy(module)
    with pytest.raises(ValueError, match=r"model.layer.weight: expected float32 \[2, 2\], got float32 \[2, 3\]"):
        load(path, module)
    with pytest.raises(ValueError, match="expected the settings of this run, got different ones") as error:
        load(path, module, {"name": "toy", "prior": {"units": 16, "kind": "rnn"}, "size": [2, 3]})
    lines = str(error.value).splitlines()[1:]
    assert lines == ["  prior.units: expected 16, got 8", "  size: expected [2, 3], got nothing"]
    assert same(module, before)


def test_foreign_files(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="found no such file"):
        load(path, Pair())
    save_file({"a": torch.zeros(2)}, path, {"format": "pt"})
    with pytest.raises(ValueError, match="got a damaged or foreign file"):
        load(path, Pair())
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="got a header without valid format, step, model, checksum"):
        load(path, Pair())
    path.write_text("not a tensor")
    with pytest.raises(ValueError, match="damaged"):
        load(path, Pair())


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("format", "1", "expected weights of format 2, got 1"),
        ("format", "true", "without valid format"),
        ("step", '"x"', "without valid step"),
        ("step", "null", "without valid step"),
        ("step", "8", "the stored checksum"),
        ("model", "[1]", "without valid model"),
        ("model", "[" * 10_000, "damaged or foreign"),
        ("checksum", "3", "without valid checksum"),
    ],
)
def test_edited_headers(path: Path, entry: str, value: str, message: str) -> None:
    save(path)
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    save_file(load_file(path), path, header | {entry: value})
    pair = Pair()
    before = copy.deepcopy(pair)
    with pytest.raises(ValueError, match=f"{message}.*weights.safetensors"):
        load(path, pair)
    assert same(pair, before)
