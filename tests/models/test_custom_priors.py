# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Contract C4: a prior is any Pyro code."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_sqair.experiments import SQAIRSystem
from pyro_sqair.guides import SQAIRGuide
from pyro_sqair.infer import VIMCO, check_sites
from pyro_sqair.models import SQAIR
from pyro_sqair.scene.objects import SceneConfig, pad_slots

D, T = 2, 4
SCENE = SceneConfig(num_slots=3, what_dim=D, image_size=(12, 12), glimpse_size=(6, 6))
VIDEO = torch.linspace(0, 1, T * 5 * 144).reshape(T, 5, 1, 12, 12)


def programs(propagation_prior, **parts) -> tuple[SQAIR, SQAIRGuide]:
    """A model with another propagation prior, and a guide."""
    model, guide = SQAIRSystem(8, object_costs=(0.0, 0.5)).programs(SCENE)
    parts = {"discovery_prior": model.discovery_prior, "renderer": model.renderer} | parts
    return SQAIR(propagation_prior=propagation_prior, scene=SCENE, **parts), guide


def random_walk(previous, memory, slots):
    """A propagation prior in five lines."""
    for i in slots:
        pyro.sample("pres", dist.Bernoulli(torch.tensor(0.8)))
        pyro.sample("where", dist.Normal(previous.where[..., i, :], 0.1).to_event(1))
        pyro.sample("what", dist.Normal(previous.what[..., i, :], 0.1).to_event(1))


def with_velocity(previous, memory, slots):
    """Constant velocity plus noise: the velocity is an additional latent, kept in the memory."""
    velocities = []
    for i in slots:
        before = torch.zeros(2) if memory is None else memory[..., i, :]
        velocity = pyro.sample("velocity", dist.Normal(before, 0.1).to_event(1))
        step = torch.cat([torch.zeros_like(velocity), velocity], -1)
        pyro.sample("pres", dist.Bernoulli(torch.tensor(0.8)))
        pyro.sample("where", dist.Normal(previous.where[..., i, :] + step, 0.01).to_event(1))
        pyro.sample("what", dist.Normal(previous.what[..., i, :], 0.01).to_event(1))
        velocities.append(velocity)
    return pad_slots(torch.stack(velocities, -2), slots.num) if velocities else None


class VelocityGuide(torch.nn.Module):
    """Also draws a velocity."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = torch.nn.Parameter(torch.zeros(2))

    def forward(self, frame, previous, memory, slots):
        for i in slots:
            pyro.sample("velocity", dist.Normal(self.loc, 0.1).to_event(1))
            pyro.sample("where", dist.Normal(previous.where[..., i, :], 0.1).to_event(1))
            pyro.sample("what", dist.Normal(previous.what[..., i, :], 0.1).to_event(1))
            pyro.sample("pres", dist.Bernoulli(torch.tensor(0.8)))


def test_random_walk():
    model, guide = programs(random_walk)
    states = model(VIDEO[:0], 6)
    assert states[-1].memory is None
    assert any(state.objects.pres.any() for state in states)
    check_sites(model, guide, VIDEO)
    loss = VIMCO(3)(model, guide)(VIDEO)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in guide.parameters() if p.grad is not None)


def test_velocity_is_remembered():
    trace = poutine.trace(programs(with_velocity)[0]).get_trace(VIDEO[:0], 6)
    states, sites = trace.nodes["_RETURN"]["value"], trace.nodes
    followed = 0
    for t in range(2, 6):
        if site := sites.get(f"frame_{t}/prop_0/velocity"):
            memory, mean = states[t - 1].memory[..., 0, :], site["fn"].base.mean
            assert torch.equal(mean, memory.expand_as(mean))
            followed += int((memory != 0).any())
    assert followed


def test_velocity_needs_a_guide_that_draws_it():
    model, guide = programs(with_velocity)
    with pytest.raises(ValueError, match="in the model but not in the guide: .*velocity"):
        check_sites(model, guide, VIDEO)
    guide = SQAIRGuide(guide.discovery, VelocityGuide(), SCENE)
    check_sites(model, guide, VIDEO)
    VIMCO(3)(model, guide)(VIDEO).backward()
    assert guide.propagation.loc.grad.abs().sum() > 0


def test_discovery_prior_as_a_function():
    def one_at_a_time(propagated, slots, first):
        for _ in slots:
            pyro.sample("pres", dist.Bernoulli(torch.tensor(0.5)))
            pyro.sample("where", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("what", dist.Normal(torch.zeros(D), 1.0).to_event(1))

    model, guide = programs(random_walk, discovery_prior=one_at_a_time)
    check_sites(model, guide, VIDEO)
    assert any(state.objects.pres.any() for state in model(VIDEO))
