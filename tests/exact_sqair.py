# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""SQAIR programs so small that their evidence is known in closed form, and the comparison with it.

The programs run on 2 x 2 images. Given the presence of every object, their priors and renderer are linear and Gaussian.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from exact_oracle import PIXELS, WHAT, WHERE, CountDistribution, History, World, oracle
from scipy.special import softmax
from torch import Tensor, nn

from pyro_sqair.experiments import SQAIRSystem
from pyro_sqair.guides import SQAIRGuide
from pyro_sqair.infer.log_weights import log_weights
from pyro_sqair.models import SQAIR, CategoricalCount, DiscoveryPrior, FixedCount
from pyro_sqair.nn.networks import SetEncoder
from pyro_sqair.scene.objects import Objects, State
from pyro_sqair.scene.slots import Slots

CHUNK = 4_000  # particles weighed at a time; more need more memory

VideoProgram = Callable[[Tensor], list[State]]


# ---------------------------------------------------------------- the programs


class LinearRenderer(nn.Module):
    """Every present object adds a linear image of its ``where`` and ``what``, with the weights of its slot."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.std = world.pixel_std
        self.register_buffer("weights", torch.from_numpy(world.weights))
        self.register_buffer("background", torch.from_numpy(world.background).reshape(1, 2, 2))

    def forward(self, objects: Objects) -> Tensor:
        latent = torch.cat([objects.where, objects.what], -1) * objects.pres.unsqueeze(-1)
        return torch.einsum("ipe,...ie->...p", self.weights, latent).unflatten(-1, (1, 2, 2)) + self.background


def randomise(module: nn.Module, std: float) -> None:
    """Sets all parameters to Gaussian noise with a fixed seed."""
    random = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.as_tensor(std * random.standard_normal(parameter.shape)))


def propagated_mean(world: World, i: int, objects: Objects, age: Tensor) -> tuple[Tensor, Tensor]:
    """The prior mean of ``where`` and of ``what`` of the object in slot i."""
    where, what = objects.where[..., i, :], objects.what[..., i, :]
    others = objects.where.sum(-2) - where  # absent objects hold zeros
    drift = world.where_drift[i] + world.age_drift * age[..., i, :]
    return world.where_decay * where + drift + world.pull * others, world.what_decay * what + world.what_drift[i]


def discovered_mean(world: World, before: Tensor, propagated: Objects) -> Tensor:
    """The prior mean of ``where`` of a new object; ``before`` is that of the one discovered before it, or zeros."""
    return torch.tensor(world.where_mean) + world.chain * before + world.crowd * propagated.where.sum(-2)


def make_model(world: World) -> SQAIR:
    """The generative program. Its priors are plain functions, or the library's discovery prior."""

    def propagation(previous: Objects, age: Tensor, slots: Slots) -> Tensor:
        for i in slots:
            where_mean, what_mean = propagated_mean(world, i, previous, age)
            pyro.sample("pres", dist.Bernoulli(torch.tensor(world.survival_prob[i])))
            pyro.sample("where", dist.Normal(where_mean, world.where_std).to_event(1))
            pyro.sample("what", dist.Normal(what_mean, world.what_std).to_event(1))
        return age + 1

    propagation.initial_memory = torch.zeros(1)  # the memory of an object is its age

    def discovery(propagated: Objects, slots: Slots, first: bool) -> None:
        where = torch.zeros(WHERE)
        for i in slots:
            pyro.sample("pres", dist.Bernoulli(torch.tensor(world.discovery_prob[i])))
            where = pyro.sample("where", dist.Normal(discovered_mean(world, where, propagated), 1.0).to_event(1))
            pyro.sample("what", dist.Normal(torch.zeros(WHAT), 1.0).to_event(1))

    if world.count == "user":
        return SQAIR(discovery, propagation, LinearRenderer(world), world.scene)
    count: nn.Module = FixedCount(first=0.2, later=0.4)
    if world.count == "learned":
        count = CategoricalCount(world.num_slots)
        randomise(count, 0.5)
    prior = DiscoveryPrior(world.scene, SetEncoder(WHAT, 4), count)
    with torch.no_grad():
        prior.where.readout.weight.zero_()  # otherwise the prior of a second object is not Gaussian
        prior.where.readout.bias[:WHERE] = torch.tensor(world.where_mean)
    return SQAIR(prior, propagation, LinearRenderer(world), world.scene)


def make_guide(world: World) -> SQAIRGuide:
    """A guide of plain functions, in the paper's order: ``where``, ``what``, and then ``pres``, which depends on both.

    Its Gaussians are close to the prior's but broader, which bounds the weights. As in the library's guide, the draws
    of an object that turns out absent still influence later draws.
    """
    broad = 1.12

    def presence(where: Tensor, what: Tensor, light: Tensor) -> dist.Bernoulli:
        return dist.Bernoulli(logits=0.3 + torch.tanh(where[..., 2] - what[..., 0] + light))

    def propagation(frame: Tensor, previous: Objects, age: Tensor, slots: Slots) -> Tensor:
        light, hint = frame.mean((-3, -2, -1)), torch.zeros(1)
        for i in slots:
            where_mean, what_mean = propagated_mean(world, i, previous, age)
            where_mean, what_mean = where_mean + 0.1 * torch.tanh(hint), what_mean + 0.1 * light.unsqueeze(-1)
            where = pyro.sample("where", dist.Normal(where_mean, broad * world.where_std).to_event(1))
            what = pyro.sample("what", dist.Normal(what_mean, broad * world.what_std).to_event(1))
            pyro.sample("pres", presence(where, what, light))
            hint = where[..., :1] + what
        return age + 1

    propagation.initial_memory = torch.zeros(1)

    def discovery(frame: Tensor, propagated: Objects, slots: Slots) -> None:
        light, where = frame.mean((-3, -2, -1)), torch.zeros(WHERE)
        for _ in slots:
            loc = discovered_mean(world, where, propagated) + 0.1 * light.unsqueeze(-1)
            where = pyro.sample("where", dist.Normal(loc, broad).to_event(1))
            what = pyro.sample("what", dist.Normal(0.2 * light.unsqueeze(-1).expand(-1, WHAT), broad).to_event(1))
            pyro.sample("pres", presence(where, what, light))

    return SQAIRGuide(discovery, propagation, world.scene)


def make_neural_guide(world: World) -> SQAIRGuide:
    """The library's own guide, tiny and untrained, with proposals as broad as the prior."""
    _, guide = SQAIRSystem(hidden_size=4).programs(world.scene)
    randomise(guide, 0.15)
    discovery, propagation = guide.discovery, guide.propagation
    with torch.no_grad():
        discovery.where[-1].bias[:WHERE] = torch.tensor(world.where_mean)
        discovery.scale_bias.fill_(0.8)
        discovery.glimpse_encoder.what.bias[WHAT:] = 0.8
        propagation.scale_bias.fill_(0.1)
        propagation.what.gates.bias.fill_(1.0)
        propagation.what.expected.bias[WHAT:] = 0.4
        propagation.pres[-1].bias.fill_(0.5)
    return guide


# ---------------------------------------------------------------- the comparison


def count_distribution(world: World, model: SQAIR) -> CountDistribution:
    """P(D = 0 ... room), computed by hand (paper, Eq. 8)."""

    def probabilities(propagated: int, first: bool) -> np.ndarray:
        room = world.num_slots - propagated
        if world.count == "user":  # tosses until the first failure
            heads = np.cumprod([1.0, *world.discovery_prob[:room]])
            return heads * np.array([*(1 - np.array(world.discovery_prob[:room])), 1.0])
        count = model.discovery_prior.count
        if world.count == "fixed":
            return softmax(-count.costs[0 if first else 1] * np.arange(room + 1))

        def elu(x: np.ndarray) -> np.ndarray:
            return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))

        bias, later, w1, b1, w2, b2 = (p.detach().numpy() for p in count.parameters())
        hidden = elu(w1[:, 0] * propagated / world.num_slots + b1)
        return softmax(elu(bias + (0 if first else later) + w2 @ hidden + b2)[: room + 1])

    return probabilities


class Case(NamedTuple):
    """A world, its programs, and videos with their exact probabilities."""

    model: SQAIR
    guide: SQAIRGuide
    frames: Tensor  # [T, B, 1, 2, 2]
    log_joint: list[dict[History, float]]  # of each video
    log_evidence: Tensor  # [B]


def make_case(world: World, guide: Callable[[World], SQAIRGuide] = make_guide, videos: int = 3) -> Case:
    model = make_model(world)
    frames = np.random.default_rng(3).uniform(size=(videos, world.length, PIXELS))
    count = count_distribution(world, model)
    log_joint = [oracle(world, video, count) for video in frames]
    log_evidence = torch.tensor([np.logaddexp.reduce(list(joint.values())) for joint in log_joint])
    video = torch.from_numpy(frames).transpose(0, 1).unflatten(-1, (1, 2, 2))
    return Case(model, guide(world), video, log_joint, log_evidence)


@torch.no_grad()
def weigh(case: Case, chunks: int, model: VideoProgram | None = None, guide: VideoProgram | None = None) -> Tensor:
    """Importance weights divided by the evidence, shape [chunks * CHUNK, B].

    Args:
        case: a case.
        chunks: how many times to draw CHUNK particles.
        model: replaces the model of the case.
        guide: replaces the guide of the case.
    """
    programs = model or case.model, guide or case.guide
    parts = [log_weights(*programs, (case.frames,), num_particles=CHUNK, max_plate_nesting=1) for _ in range(chunks)]
    return (torch.cat([part.log_weight for part in parts]) - case.log_evidence).exp()


def assert_average_is_the_evidence(weight: Tensor) -> None:
    """Checks the average within 4 standard errors, which must be small enough to notice a deviation of 10%."""
    error = weight.std(0) / math.sqrt(len(weight))
    z = (weight.mean(0) - 1) / error
    assert (error < 0.025).all(), f"expected standard errors below 0.025, got {error.tolist()}"
    assert (z.abs() < 4).all(), f"expected average weights within 4 standard errors of p(x), got {z.tolist()}"
