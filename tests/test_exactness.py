# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Exactness of the whole: a SQAIR so small that its evidence is known in closed form.

The real programs run on 2 x 2 images with priors and a renderer that are linear and Gaussian once it is known who is
present. The oracle below shares numbers with them but no code: it lists every history (who came, stayed and left),
and given a history the video is one multivariate Gaussian. Importance weights must average to that evidence.

Everything depends on the slot that an object stands in, so objects that end up in the wrong slot change the evidence.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_sqair.guides import SQAIRGuide
from pyro_sqair.infer import VIMCO, check_sites, evaluate_bounds
from pyro_sqair.infer.log_weights import log_weights
from pyro_sqair.models import SQAIR, CategoricalCount, DiscoveryPrior, FixedCount
from pyro_sqair.networks import SetEncoder
from pyro_sqair.scene import Objects, SceneConfig, State, merge, no_objects
from pyro_sqair.slots import Slots

WHERE, WHAT, PIXELS = 4, 1, 4
LATENT = WHERE + WHAT
CHUNK = 4_000  # few at a time need little memory
Path = tuple[tuple[int, ...], ...]  # the ids in each frame, in the order of slots: who came, stayed and left


@dataclass(frozen=True)
class World:
    """The numbers of a linear-Gaussian SQAIR; those that depend on a slot have it as their first dimension."""

    num_slots: int
    length: int
    count: str = "user"  # who says how many appear: the user's coin tosses, or a count prior of the library
    # objects that appear: where = mean + chain * (the one discovered before) + crowd * (sum of the propagated)
    appear: tuple[float, ...] = (0.7, 0.6, 0.5)
    where_mean: tuple[float, ...] = (-1.0, -1.0, 0.5, -0.5)
    chain: float = 0.3
    crowd: float = 0.8
    # objects that stay: where = keep * where + drift[slot] + haste * age + pull * (sum of the others),
    # what = fade * what + tint[slot]
    stay: tuple[float, ...] = (0.55, 0.7, 0.6)
    keep: float = 0.9
    drift: tuple[float, ...] = (0.1, -0.15, 0.0)
    haste: float = 0.8
    pull: float = 0.4
    where_std: float = 0.6
    fade: float = 0.8
    tint: tuple[float, ...] = (0.2, -0.1, 0.0)
    what_std: float = 0.5
    pixel_std: float = 0.5
    weights: np.ndarray = field(init=False)  # [N, PIXELS, LATENT]: what an object adds to the image
    background: np.ndarray = field(init=False)  # [PIXELS]

    def __post_init__(self) -> None:
        random = np.random.default_rng(5)
        object.__setattr__(self, "weights", 0.2 * random.standard_normal((3, PIXELS, LATENT))[: self.num_slots])
        object.__setattr__(self, "background", random.uniform(0.1, 0.25, PIXELS))

    @property
    def scene(self) -> SceneConfig:
        return SceneConfig(self.num_slots, WHAT, channels=1, image_size=(2, 2), glimpse_size=(2, 2))


# ---------------------------------------------------------------- the oracle: NumPy and nothing of the library


class Affine(NamedTuple):
    """A Gaussian vector as mean + factor @ noise, with the noise of the whole history as one standard Gaussian."""

    mean: np.ndarray  # [E]
    factor: np.ndarray  # [E, noise]
    age: int = 0  # of an object: frames since its discovery


def oracle(world: World, video: np.ndarray, count_law: Callable[[int, bool], np.ndarray]) -> dict[Path, float]:
    """log p(history, x) of every history.

    Args:
        world: the numbers.
        video: x, shape [T, PIXELS].
        count_law: maps (how many were propagated, is it the first frame) to P(D = 0 ... room).
    """
    num_slots, length = world.num_slots, world.length
    found: dict[Path, float] = {}
    nothing = Affine(np.zeros(LATENT), np.zeros((LATENT, length * 2 * num_slots * LATENT)))
    is_where = np.arange(LATENT) < WHERE

    def draw(mean: np.ndarray, factor: np.ndarray, std: np.ndarray, t: int, source: int, age: int) -> Affine:
        own = np.zeros_like(nothing.factor)
        start = (t * 2 * num_slots + source) * LATENT
        own[:, start : start + LATENT] = np.diag(std)
        return Affine(mean, factor + own, age)

    def moved(previous: list[Affine], i: int, t: int) -> Affine:
        old = previous[i]
        others = [o for j, o in enumerate(previous) if j != i]
        rate = np.where(is_where, world.keep, world.fade)
        shift = np.where(is_where, world.drift[i] + world.haste * old.age, world.tint[i])
        pull = np.where(is_where, world.pull, 0.0)
        mean = rate * old.mean + shift + pull * sum((o.mean for o in others), nothing.mean)
        factor = rate[:, None] * old.factor + pull[:, None] * sum((o.factor for o in others), nothing.factor)
        return draw(mean, factor, np.where(is_where, world.where_std, world.what_std), t, i, old.age + 1)

    def appeared(kept: list[Affine], before: Affine, j: int, t: int) -> Affine:
        chain, crowd = np.where(is_where, world.chain, 0.0), np.where(is_where, world.crowd, 0.0)
        mean = chain * before.mean + crowd * sum((o.mean for o in kept), nothing.mean)
        mean = mean + np.array([*world.where_mean, 0.0])
        factor = chain[:, None] * before.factor + crowd[:, None] * sum((o.factor for o in kept), nothing.factor)
        return draw(mean, factor, np.ones(LATENT), t, num_slots + j, age=0)

    def visit(path: Path, present: list[Affine], next_id: int, log_prob: float, images: list[Affine]) -> None:
        t = len(path)
        if t == length:
            mean = np.concatenate([image.mean for image in images])
            factor = np.concatenate([image.factor for image in images])
            covariance = factor @ factor.T + world.pixel_std**2 * np.eye(len(mean))
            error = video.reshape(-1) - mean
            quadratic = error @ np.linalg.solve(covariance, error)
            volume = np.linalg.slogdet(2 * np.pi * covariance)[1]
            found[path] = log_prob - 0.5 * (quadratic + volume)
            return
        for stays in itertools.product((True, False), repeat=len(present)):
            stay_prob = math.prod(p if s else 1 - p for p, s in zip(world.stay, stays, strict=False))
            kept = [moved(present, i, t) for i, s in enumerate(stays) if s]
            kept_ids = tuple(itertools.compress(path[-1], stays)) if path else ()
            for num_new, count_prob in enumerate(count_law(len(kept), t == 0)):
                new, before = [], nothing
                for j in range(num_new):
                    before = appeared(kept, before, j, t)
                    new.append(before)
                now = kept + new
                mean = world.background + sum(world.weights[k] @ o.mean for k, o in enumerate(now))
                factor = sum((world.weights[k] @ o.factor for k, o in enumerate(now)), nothing.factor[:PIXELS])
                ids = kept_ids + tuple(range(next_id, next_id + num_new))
                log_joint = log_prob + math.log(stay_prob) + math.log(count_prob)
                visit((*path, ids), now, next_id + num_new, log_joint, [*images, Affine(mean, factor)])

    visit((), [], 0, 0.0, [])
    return found


def softmax(logits: np.ndarray) -> np.ndarray:
    weight = np.exp(logits - logits.max())
    return weight / weight.sum()


def elu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def law_of_count(world: World, model: SQAIR) -> Callable[[int, bool], np.ndarray]:
    """P(D = 0 ... room) by hand (paper, Eq. 8), given how many were propagated and whether this is the first frame."""

    def law(propagated: int, first: bool) -> np.ndarray:
        room = world.num_slots - propagated
        if world.count == "user":  # tosses until the first failure
            heads = np.cumprod([1.0, *world.appear[:room]])
            return heads * np.array([*(1 - np.array(world.appear[:room])), 1.0])
        count = model.discovery_prior.count
        if world.count == "fixed":
            return softmax(-count.costs[0 if first else 1] * np.arange(room + 1))
        bias, later, w1, b1, w2, b2 = (p.detach().numpy() for p in count.parameters())
        hidden = elu(w1[:, 0] * propagated / world.num_slots + b1)
        return softmax(elu(bias + (0 if first else later) + w2 @ hidden + b2)[: room + 1])

    return law


def log_sum_exp(values: list[float]) -> float:
    top = max(values)
    return top + math.log(sum(math.exp(v - top) for v in values))


# ---------------------------------------------------------------- the programs


class LinearRenderer(nn.Module):
    """Every present object adds a linear image of its ``where`` and ``what``, with weights of its slot."""

    channels, image_size = 1, (2, 2)

    def __init__(self, world: World) -> None:
        super().__init__()
        self.std = world.pixel_std
        self.register_buffer("weights", torch.from_numpy(world.weights))
        self.register_buffer("mean_image", torch.from_numpy(world.background).reshape(1, 2, 2))

    def forward(self, objects: Objects) -> Tensor:
        latent = torch.cat([objects.where, objects.what], -1) * objects.pres.unsqueeze(-1)
        image = torch.einsum("ipe,...ie->...p", self.weights, latent)
        return image.unflatten(-1, (1, 2, 2)) + self.mean_image


def randomise(module: nn.Module, std: float) -> None:
    """Sets all parameters, whatever the library starts them from and whatever else has been drawn."""
    random = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.as_tensor(std * random.standard_normal(parameter.shape)))


def make_model(world: World) -> SQAIR:
    """The generative program; its priors are plain functions, or the library's discovery prior."""

    def moves(previous: Objects, memory: Tensor, slots: Slots) -> Tensor:
        total = previous.where.sum(-2)  # absent objects hold zeros
        for i in slots:
            where, what = previous.where[..., i, :], previous.what[..., i, :]
            pyro.sample("pres", dist.Bernoulli(torch.tensor(world.stay[i])))
            drift = world.drift[i] + world.haste * memory[..., i, :]
            loc = world.keep * where + drift + world.pull * (total - where)
            pyro.sample("where", dist.Normal(loc, world.where_std).to_event(1))
            pyro.sample("what", dist.Normal(world.fade * what + world.tint[i], world.what_std).to_event(1))
        return memory + 1

    moves.initial_memory = torch.zeros(1)  # of every object it remembers the age

    def appears(propagated: Objects, slots: Slots, first: bool) -> None:
        crowd = propagated.where.sum(-2)  # absent objects hold zeros
        before = torch.zeros(WHERE)
        for i in slots:
            pyro.sample("pres", dist.Bernoulli(torch.tensor(world.appear[i])))
            loc = torch.tensor(world.where_mean) + world.chain * before + world.crowd * crowd
            before = pyro.sample("where", dist.Normal(loc, 1.0).to_event(1))
            pyro.sample("what", dist.Normal(torch.zeros(WHAT), 1.0).to_event(1))

    if world.count == "user":
        return SQAIR(appears, moves, LinearRenderer(world), world.scene)
    count: nn.Module = FixedCount(first=0.2, later=0.4)
    if world.count == "learned":
        count = CategoricalCount(world.num_slots)
        randomise(count, 0.5)
    prior = DiscoveryPrior(world.num_slots, WHAT, SetEncoder(WHAT, 4), count)
    with torch.no_grad():
        prior.where.readout.weight.zero_()  # else the prior of a second object is not Gaussian
        prior.where.readout.bias[:WHERE] = torch.tensor(world.where_mean)
    return SQAIR(prior, moves, LinearRenderer(world), world.scene)


def make_guide(world: World) -> SQAIRGuide:
    """A guide of plain functions, in the paper's order: ``where``, ``what``, and only then ``pres``, which sees both.

    Its Gaussians are a little off the prior's and broader, which bounds the weights. What it drew for an object that
    turned out to be absent still sways later draws, as in the recurrent networks of the library's guide.
    """
    broad = 1.12

    def stays(where: Tensor, what: Tensor, light: Tensor) -> Tensor:
        return 0.3 + torch.tanh(where[..., 2] - what[..., 0] + light)

    def follow(frame: Tensor, previous: Objects, memory: Tensor, slots: Slots) -> Tensor:
        light, hint = frame.mean((-3, -2, -1)), torch.zeros(1)
        total = (previous.where * previous.pres.unsqueeze(-1)).sum(-2)
        for i in slots:
            where, what = previous.where[..., i, :], previous.what[..., i, :]
            drift = world.drift[i] + world.haste * memory[..., i, :] + 0.1 * torch.tanh(hint)
            loc = world.keep * where + drift + world.pull * (total - where)
            where = pyro.sample("where", dist.Normal(loc, broad * world.where_std).to_event(1))
            loc = world.fade * what + world.tint[i] + 0.1 * light.unsqueeze(-1)
            what = pyro.sample("what", dist.Normal(loc, broad * world.what_std).to_event(1))
            pyro.sample("pres", dist.Bernoulli(logits=stays(where, what, light)))
            hint = where[..., :1] + what
        return memory + 1

    follow.initial_memory = torch.zeros(1)

    def find(frame: Tensor, propagated: Objects, slots: Slots) -> None:
        light = frame.mean((-3, -2, -1))
        crowd = (propagated.where * propagated.pres.unsqueeze(-1)).sum(-2)
        before = torch.zeros(WHERE)
        for _ in slots:
            loc = torch.tensor(world.where_mean) + world.chain * before + world.crowd * crowd
            before = pyro.sample("where", dist.Normal(loc + 0.1 * light.unsqueeze(-1), broad).to_event(1))
            what = pyro.sample("what", dist.Normal(0.2 * light.unsqueeze(-1).expand(-1, WHAT), broad).to_event(1))
            pyro.sample("pres", dist.Bernoulli(logits=stays(before, what, light)))

    return SQAIRGuide(find, follow, world.scene)


def make_neural_guide(world: World) -> SQAIRGuide:
    """The library's own guide, tiny and untrained, with proposals as broad as the prior."""
    guide = SQAIRGuide.build(world.scene, hidden_size=4)
    randomise(guide, 0.15)
    find, follow = guide.discovery, guide.propagation
    with torch.no_grad():
        find.where[-1].bias[:WHERE] = torch.tensor(world.where_mean)
        find.scale_bias.fill_(0.8)
        follow.scale_bias.fill_(0.1)
        find.glimpse_encoder.what.bias[WHAT:] = 0.8
        follow.what.gates.bias.fill_(1.0)
        follow.what.expected.bias[WHAT:] = 0.4
        follow.pres[-1].bias.fill_(0.5)
    return guide


# ---------------------------------------------------------------- weighing

Program = Callable[[Tensor], list[State]]


class Case(NamedTuple):
    """A world, its programs, some videos and what is known of them."""

    model: SQAIR
    guide: SQAIRGuide
    frames: Tensor  # [T, B, 1, 2, 2]
    log_joint: list[dict[Path, float]]  # of each video
    log_evidence: Tensor  # [B]


def make_case(world: World, guide: Callable[[World], SQAIRGuide] = make_guide, videos: int = 3) -> Case:
    model = make_model(world)
    frames = np.random.default_rng(3).uniform(size=(videos, world.length, PIXELS))
    law = law_of_count(world, model)
    log_joint = [oracle(world, video, law) for video in frames]
    log_evidence = torch.tensor([log_sum_exp(list(joint.values())) for joint in log_joint])
    video = torch.from_numpy(frames).transpose(0, 1).unflatten(-1, (1, 2, 2))
    return Case(model, guide(world), video, log_joint, log_evidence)


class Particles(NamedTuple):
    """Weights relative to the evidence, and which history each particle tells of, as a number; shape [K, B]."""

    weight: Tensor
    history: Tensor


def weigh(case: Case, chunks: int, model: Program | None = None, guide: Program | None = None) -> Particles:
    """Weighs ``chunks`` times CHUNK particles, with another model or guide than the case's if given."""
    states: list[State] = []

    def recorded(frames: Tensor) -> list[State]:
        states[:] = (guide or case.guide)(frames)
        return states

    parts = []
    for _ in range(chunks):
        with torch.no_grad():
            weighed = log_weights(
                model or case.model, recorded, (case.frames,), num_particles=CHUNK, max_plate_nesting=1
            )
        shape = weighed.log_weight.shape
        history = number_of([state.objects.id.expand(*shape, -1) for state in states])
        parts.append(Particles((weighed.log_weight - case.log_evidence).exp(), history))
    return Particles(*(torch.cat(part) for part in zip(*parts, strict=True)))


def number_of(ids: list[Tensor]) -> Tensor:
    """Numbers the histories with ids of shape [*, N] in each of T frames."""
    digits = torch.cat(ids, -1) + 1
    return (digits * (digits.shape[-1] + 1) ** torch.arange(digits.shape[-1])).sum(-1)


def number_of_path(path: Path, num_slots: int) -> int:
    return int(number_of([torch.tensor([*ids, *[-1] * (num_slots - len(ids))]) for ids in path]))


def assert_average_is_the_evidence(particles: Particles) -> None:
    """Within 4 standard errors for every video, from so many particles that a tenth more or less would be noticed."""
    error = particles.weight.std(0) / math.sqrt(len(particles.weight))
    z = (particles.weight.mean(0) - 1) / error
    assert (error < 0.025).all(), f"expected standard errors below 0.025, got {error.tolist()}"
    assert (z.abs() < 4).all(), f"expected average weights within 4 standard errors of p(x), got {z.tolist()}"


@pytest.fixture(autouse=True)
def setting(clean_slate: None) -> Iterator[None]:
    """Double precision, which `clean_slate` undoes, and one thread, which is faster for tensors as small as these."""
    threads = torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ---------------------------------------------------------------- the average weight

WORLDS = [
    pytest.param(World(1, 1, "fixed"), 8, id="N1-T1-fixed"),
    pytest.param(World(2, 1, "learned", chain=0.0), 10, id="N2-T1-learned"),
    pytest.param(World(1, 2, "fixed", crowd=0.0), 15, id="N1-T2-fixed"),
    pytest.param(World(2, 2, "learned", chain=0.0, crowd=0.0), 25, id="N2-T2-learned"),
    pytest.param(World(2, 2), 20, id="N2-T2-user"),
    pytest.param(World(2, 3, pixel_std=0.7), 25, id="N2-T3-user"),
]


@pytest.mark.parametrize(("world", "chunks"), WORLDS)
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
    assert evidence - after < 0.6 * (evidence - before)  # training closes a good part of the gap
    assert_average_is_the_evidence(weigh(case, 15))


# ---------------------------------------------------------------- controls: the comparison sees what is wrong


def without_masks(program: Program) -> Program:
    """The program, with ``where`` and ``what`` of absent objects counted (against contract C5)."""

    def run(frames: Tensor) -> list[State]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pyro_sqair.slots.IfPresent", lambda law, answer: law)
            return program(frames)

    return run


@pytest.mark.parametrize(
    ("wrong", "symptom"),
    [
        pytest.param("model", "4 standard errors of p", id="model"),
        # 1 / q where absent: the average grows beyond all bounds, and so does its error
        pytest.param("guide", "standard errors below", id="guide"),
    ],
)
def test_masks_in_one_program_alone_are_noticed(wrong: str, symptom: str) -> None:
    case = make_case(World(2, 2))
    particles = weigh(case, 5, **{wrong: without_masks(getattr(case, wrong))})
    with pytest.raises(AssertionError, match=symptom):
        assert_average_is_the_evidence(particles)


def test_masks_in_neither_program_are_valid_too() -> None:
    """Then what is absent is drawn from the prior in the target; so it is the disagreement that the others notice."""
    case = make_case(World(2, 2, crowd=0.0))
    particles = weigh(case, 20, without_masks(case.model), without_masks(case.guide))
    assert_average_is_the_evidence(particles)


def test_objects_in_wrong_slots_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def newest_first(*args: Any) -> State:
        state = merge(*args)
        objects, slot = state.objects, torch.arange(state.objects.pres.shape[-1])
        last = objects.num_present.long().unsqueeze(-1) - 1
        order = torch.where(slot <= last, last - slot, slot).unsqueeze(-1)
        where, what = (torch.take_along_dim(value, order, -2) for value in (objects.where, objects.what))
        return state._replace(objects=objects._replace(where=where, what=what))

    monkeypatch.setattr("pyro_sqair.models.sqair.merge", newest_first)
    monkeypatch.setattr("pyro_sqair.guides.sqair.merge", newest_first)
    particles = weigh(make_case(World(2, 2)), 20)
    with pytest.raises(AssertionError, match="4 standard errors of p"):
        assert_average_is_the_evidence(particles)


# ---------------------------------------------------------------- bounds and posteriors


def test_iwae_rises_to_the_evidence_from_below() -> None:
    case = make_case(World(2, 2), videos=1)
    evidence = case.log_evidence.item()
    means, errors = [], []
    for num_particles, repeats in ((1, 4000), (8, 2000), (64, 400), (2000, 40)):
        copies = case.frames.expand(-1, repeats, -1, -1, -1)  # each is an estimate of its own
        bound = evaluate_bounds(case.model, case.guide, copies, num_particles=num_particles, chunk=200).iwae.value
        means.append(bound.mean().item())
        errors.append(bound.std().item() / math.sqrt(repeats))
    assert all(mean < evidence + 4 * error for mean, error in zip(means, errors, strict=True))
    for i in (0, 1):
        assert means[i] < evidence - 4 * errors[i]
        assert means[i + 1] - means[i] > 4 * math.hypot(errors[i], errors[i + 1])
    assert means[-1] == pytest.approx(evidence, abs=0.03)


@pytest.mark.parametrize("world", [World(2, 1), World(2, 2)], ids=["T1", "T2"])
def test_weighted_particles_have_the_posterior_of_histories(world: World) -> None:
    """Who came, stayed and left, in which slots: for T = 1 this is P(D_1 = d | x)."""
    case = make_case(world)
    weight, history = weigh(case, 20)
    share = weight / weight.sum(0)
    numbers = {path: number_of_path(path, world.num_slots) for path in case.log_joint[0]}
    assert set(history.unique().tolist()) == set(numbers.values())
    for b, joint in enumerate(case.log_joint):
        for path, log_joint in joint.items():
            exact = math.exp(log_joint - case.log_evidence[b].item())
            told = (history[:, b] == numbers[path]).to(share)
            estimate = share[:, b] @ told
            error = (share[:, b] * (told - estimate)).norm()
            if exact > 0.01:  # else too few particles tell of it for an error of their own
                assert abs(estimate - exact) < 4 * error, f"P({path} | x) is {exact}, got {estimate} +- {error}"


# ---------------------------------------------------------------- the count prior


@pytest.mark.parametrize("count", ["fixed", "learned"])
@pytest.mark.parametrize("first", [True, False])
def test_count_prior_is_the_categorical_in_law(count: str, first: bool) -> None:
    """Drawn slot by slot, D = d has the probability of Categorical(0 ... N - P) truncated by hand (contract C6)."""
    world = World(3, 1, count)
    model = make_model(world)
    law = law_of_count(world, model)
    propagated = no_objects(4, world.scene, torch.empty(0))._replace(pres=torch.ones(4, 3).tril(-1))  # P = 0, 1, 2, 3
    for d in range(4):
        pres = {f"disc_{i}/pres": torch.full((4,), float(i < d)) for i in range(3)}
        with pyro.plate("sequences", 4, dim=-1), torch.no_grad():
            trace = poutine.trace(poutine.condition(model.discover, data=pres)).get_trace(propagated, first)
        trace.compute_log_prob()
        # slots that are closed to all four are not visited
        log_prob = sum(trace.nodes[name]["log_prob"] for name in pres if name in trace.nodes)
        for num_propagated in range(4):
            fits = d <= 3 - num_propagated
            expected = math.log(law(num_propagated, first)[d]) if fits else -math.inf
            assert log_prob[num_propagated].item() == pytest.approx(expected, abs=1e-10)
