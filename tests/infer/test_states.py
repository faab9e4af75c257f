# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""States of programs: every tensor is found; tensors with and without a particle dimension are distinguished."""

import dataclasses
from collections import OrderedDict
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from pyro_sqair.infer.states import map_tensors, ranks, spread, take


class Point(NamedTuple):
    here: Tensor
    maybe: Tensor | None = None


@dataclasses.dataclass(frozen=True)
class Frozen:
    value: Tensor
    label: str = "same"


def make_state() -> Any:
    def fresh() -> Tensor:
        return torch.rand(4, 3)

    return {
        "point": Point(fresh()),
        "nested": [(fresh(), None), OrderedDict(a=fresh(), b=1)],
        7: Frozen(fresh()),
        "clock": torch.tensor(3.0),
    }


def test_every_tensor_is_replaced_and_the_rest_unchanged():
    state = make_state()
    doubled = map_tensors(lambda _, value: 2 * value, state)
    assert torch.equal(doubled["point"].here, 2 * state["point"].here)
    assert isinstance(doubled["point"], Point)
    assert doubled["point"].maybe is None
    assert torch.equal(doubled["nested"][0][0], 2 * state["nested"][0][0])
    assert isinstance(doubled["nested"][1], OrderedDict)
    assert torch.equal(doubled["nested"][1]["a"], 2 * state["nested"][1]["a"])
    assert doubled["nested"][1]["b"] == 1
    assert torch.equal(doubled[7].value, 2 * state[7].value)
    assert doubled[7].label == "same"
    assert doubled["clock"] == 6
    assert state["clock"] == 3, "the original is unchanged"


def test_paths():
    assert ranks(make_state()) == {
        "state['point'].here": 2,
        "state['nested'][0][0]": 2,
        "state['nested'][1]['a']": 2,
        "state[7].value": 2,
        "state['clock']": 0,
    }


def test_unknown_type():
    with pytest.raises(ValueError, match=r"got a object at state\['a'\]\[1\]"):
        map_tensors(lambda _, value: value, {"a": [None, object()]})


@pytest.mark.parametrize("size", [3, 4])
def test_shared_tensors_are_distinguished_from_particles(size):
    """Even if K, B and the next dimension are equal."""
    shared, own = torch.rand(size, size, 2), torch.rand(size, size, size, 2)
    known = {"state[0]": 3, "state[1]": 3}
    first, second = spread((shared, own), size, size, known)
    assert first.shape == second.shape == (size, size, size, 2)
    assert torch.equal(first[1], shared)
    assert torch.equal(second, own)
    index = torch.randint(size, (size, size))
    first, second = take((first, second), index)
    assert torch.equal(first[2], shared)
    for k in range(size):
        for b in range(size):
            assert torch.equal(second[k, b], own[index[k, b], b])


def test_new_tensors_are_distinguished_by_their_shape():
    new = (torch.rand(5, 3, 2), torch.rand(3, 2), torch.tensor(1.0))
    particles, shared, scalar = spread(new, 5, 3, {})
    assert torch.equal(particles, new[0])
    assert torch.equal(shared, new[1].expand(5, 3, 2))
    assert scalar.dim() == 0


def test_one_particle_of_each_datum():
    values = torch.rand(5, 3, 2)
    picked = take({"a": values}, torch.tensor([4, 0, 2]))["a"]
    assert torch.equal(picked, torch.stack([values[4, 0], values[0, 1], values[2, 2]]))


@pytest.mark.parametrize(
    ("shape", "known", "message"),
    [
        ((4, 2), {}, r"state.here of shape \[5, 3, ...\] \(particles, sequences\) or \[3, ...\], got \[4, 2\]"),
        ((3, 2, 1, 1), {"state.here": 2}, r"with 1 more dimensions, as at first, got \[3, 2, 1, 1\]"),
        ((3, 5, 2), {"state.here": 2}, r"got \[3, 5, 2\]"),
    ],
)
def test_wrong_shapes(shape, known, message):
    with pytest.raises(ValueError, match=message):
        spread(Point(torch.rand(shape)), 5, 3, known)
