# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Importance weights of model and guide average to the exact evidence (see `exact_sqair`)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pyro
import pytest
import torch
from exact_sqair import (
    History,
    VideoProgram,
    World,
    assert_average_is_the_evidence,
    count_distribution,
    make_case,
    make_model,
    make_neural_guide,
    weigh,
)
from pyro import poutine
from torch import Tensor

from pyro_sqair.infer import VIMCO, check_sites, evaluate_bounds
from pyro_sqair.scene.objects import State, merge, no_objects


@pytest.fixture(autouse=True)
def double_precision_on_one_thread(clean_slate: None) -> Iterator[None]:
    """`clean_slate` restores the dtype. One thread is faster for tensors as small as these."""
    threads = torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ---------------------------------------------------------------- the average weight


@pytest.mark.parametrize(
    ("world", "chunks"),
    [
        pytest.param(World(1, 1, "fixed"), 8, id="N1-T1-fixed"),
        pytest.param(World(2, 1, "learned", chain=0.0), 10, id="N2-T1-learned"),
        pytest.param(World(1, 2, "fixed", crowd=0.0), 15, id="N1-T2-fixed"),
        pytest.param(World(2, 2, "learned", chain=0.0, crowd=0.0), 25, id="N2-T2-learned"),
        pytest.param(World(2, 2), 20, id="N2-T2-user"),
        pytest.param(World(2, 3, pixel_std=0.7), 25, id="N2-T3-user"),
    ],
)
def test_average_weight_is_the_evidence(world: World, chunks: int) -> None:
    case = make_case(world)
    check_sites(case.model, case.guide, case.frames)
    assert_average_is_the_evidence(weigh(case, chunks))


def test_average_likelihood_under_the_prior_is_the_evidence() -> None:
    case = make_case(World(2, 2))

    def prior(frames: Tensor) -> list[State]:
        with poutine.block(hide=[f"frame_{t}/image" for t in range(len(frames))]):
            return case.model(frames[:0], steps=len(frames))

    assert_average_is_the_evidence(weigh(case, 20, guide=prior))


@pytest.mark.parametrize(
    "world",
    [
        pytest.param(World(1, 2, "fixed", crowd=0.0), id="N1-T2-fixed"),
        pytest.param(World(2, 2, "learned", chain=0.0, crowd=0.0, pull=0.1, pixel_std=0.7), id="N2-T2-learned"),
    ],
)
def test_average_weight_under_the_neural_guide(world: World) -> None:
    case = make_case(world, make_neural_guide)
    check_sites(case.model, case.guide, case.frames)
    assert_average_is_the_evidence(weigh(case, 15))


def test_average_weight_under_a_trained_neural_guide() -> None:
    case = make_case(World(2, 2, crowd=0.2, pull=0.1, pixel_std=0.6), make_neural_guide)

    def average_bound() -> float:
        copies = case.frames.repeat_interleave(200, 1)
        return evaluate_bounds(case.model, case.guide, copies, num_particles=10).iwae.value.mean().item()

    before = average_bound()
    loss = VIMCO(10, max_plate_nesting=1)(case.model, case.guide)
    optimiser = torch.optim.Adam(case.guide.parameters(), 5e-3)
    for _ in range(80):
        optimiser.zero_grad()
        loss(case.frames.repeat_interleave(4, 1)).backward()
        optimiser.step()
    after = average_bound()
    evidence = case.log_evidence.mean().item()
    assert before < after < evidence
    assert evidence - after < 0.6 * (evidence - before), "training closes less than 40% of the gap"
    assert_average_is_the_evidence(weigh(case, 15))


# ---------------------------------------------------------------- controls: the comparison detects errors


def without_masks(program: VideoProgram) -> VideoProgram:
    """The program, with ``where`` and ``what`` of absent objects counted (against contract C5)."""

    def run(frames: Tensor) -> list[State]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pyro_sqair.scene.slots.IfPresent", lambda base, pres: base)
            return program(frames)

    return run


@pytest.mark.parametrize(
    ("wrong", "symptom"),
    [
        pytest.param("model", "4 standard errors of p", id="model"),
        # 1 / q where an object is absent: the average weight and its error are infinite
        pytest.param("guide", "standard errors below", id="guide"),
    ],
)
def test_masks_missing_in_one_program_are_detected(wrong: str, symptom: str) -> None:
    case = make_case(World(2, 2))
    weight = weigh(case, 5, **{wrong: without_masks(getattr(case, wrong))})
    with pytest.raises(AssertionError, match=symptom):
        assert_average_is_the_evidence(weight)


def test_masks_missing_in_both_programs_are_valid() -> None:
    """Then the target of absent objects is the prior, so the test above detects the disagreement, not the masks."""
    case = make_case(World(2, 2, crowd=0.0))
    assert_average_is_the_evidence(weigh(case, 20, without_masks(case.model), without_masks(case.guide)))


def test_objects_in_wrong_slots_are_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    def merge_newest_first(*args: Any) -> State:
        state = merge(*args)
        objects, slot = state.objects, torch.arange(state.objects.pres.shape[-1])
        last = objects.num_present.long().unsqueeze(-1) - 1
        order = torch.where(slot <= last, last - slot, slot).unsqueeze(-1)
        where, what = (torch.take_along_dim(value, order, -2) for value in (objects.where, objects.what))
        return state._replace(objects=objects._replace(where=where, what=what))

    monkeypatch.setattr("pyro_sqair.models.sqair.merge", merge_newest_first)
    monkeypatch.setattr("pyro_sqair.guides.sqair.merge", merge_newest_first)
    weight = weigh(make_case(World(2, 2)), 20)
    with pytest.raises(AssertionError, match="4 standard errors of p"):
        assert_average_is_the_evidence(weight)


# ---------------------------------------------------------------- bounds and posteriors


def test_iwae_rises_to_the_evidence_from_below() -> None:
    case = make_case(World(2, 2), videos=1)
    evidence = case.log_evidence.item()
    means, errors = [], []
    for num_particles, repeats in ((1, 4000), (8, 2000), (64, 400), (2000, 40)):
        copies = case.frames.expand(-1, repeats, -1, -1, -1)  # independent estimates
        bound = evaluate_bounds(case.model, case.guide, copies, num_particles=num_particles, chunk=200).iwae.value
        means.append(bound.mean().item())
        errors.append(bound.std().item() / math.sqrt(repeats))
    assert all(mean < evidence + 4 * error for mean, error in zip(means, errors, strict=True))
    for i in (0, 1):
        assert means[i] < evidence - 4 * errors[i]
        assert means[i + 1] - means[i] > 4 * math.hypot(errors[i], errors[i + 1])
    assert means[-1] == pytest.approx(evidence, abs=0.03)


def encode_history(ids: list[Tensor]) -> Tensor:
    """Encodes ids of shape [*, N] in each of T frames as one number, shape [*]."""
    digits = torch.cat(ids, -1) + 1
    return (digits * (digits.shape[-1] + 1) ** torch.arange(digits.shape[-1])).sum(-1)


@pytest.mark.parametrize("world", [World(2, 1), World(2, 2)], ids=["T1", "T2"])
def test_weighted_particles_have_the_posterior_of_histories(world: World) -> None:
    """Discoveries, survivals and slots. For T = 1 this is P(D_1 = d | x)."""
    case = make_case(world)
    histories: list[Tensor] = []

    def recorded(frames: Tensor) -> list[State]:
        states = case.guide(frames)
        shape = states[-1].objects.pres.shape
        histories.append(encode_history([state.objects.id.expand(shape) for state in states]))
        return states

    weight = weigh(case, 20, guide=recorded)
    share, history = weight / weight.sum(0), torch.cat(histories)

    def encode(path: History) -> int:
        return int(encode_history([torch.tensor([*ids, *[-1] * (world.num_slots - len(ids))]) for ids in path]))

    assert set(history.unique().tolist()) == {encode(path) for path in case.log_joint[0]}
    for b, joint in enumerate(case.log_joint):
        for path, log_joint in joint.items():
            exact = math.exp(log_joint - case.log_evidence[b].item())
            matches = (history[:, b] == encode(path)).to(share)
            estimate = share[:, b] @ matches
            error = (share[:, b] * (matches - estimate)).norm()
            if exact > 0.01:  # otherwise too few particles have this history to estimate the error
                assert abs(estimate - exact) < 4 * error, f"P({path} | x) is {exact}, got {estimate} +- {error}"


# ---------------------------------------------------------------- the count prior


@pytest.mark.parametrize("count", ["fixed", "learned"])
@pytest.mark.parametrize("first", [True, False])
def test_count_prior_is_a_truncated_categorical(count: str, first: bool) -> None:
    """Drawn slot by slot, D = d has the probability of Categorical(0 ... N - P) truncated by hand (contract C6)."""
    world = World(3, 1, count)
    model = make_model(world)
    probabilities = count_distribution(world, model)
    propagated = no_objects(4, world.scene, torch.empty(0))._replace(pres=torch.ones(4, 3).tril(-1))  # P = 0, 1, 2, 3
    for d in range(4):
        pres = {f"disc_{i}/pres": torch.full((4,), float(i < d)) for i in range(3)}
        with pyro.plate("sequences", 4, dim=-1), torch.no_grad():
            trace = poutine.trace(poutine.condition(model.discover, data=pres)).get_trace(propagated, first)
        trace.compute_log_prob()
        # slots that are closed in all four sequences are not visited
        log_prob = sum(trace.nodes[name]["log_prob"] for name in pres if name in trace.nodes)
        for num_propagated in range(4):
            fits = d <= 3 - num_propagated
            expected = math.log(probabilities(num_propagated, first)[d]) if fits else -math.inf
            assert log_prob[num_propagated].item() == pytest.approx(expected, abs=1e-10)
