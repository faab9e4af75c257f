# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Walks and the physics prior of the example, against motion written out by hand."""

import runpy
from pathlib import Path

import pyro
import pytest
import torch
from pyro import poutine
from torch import Tensor

from pyro_sqair.guides import SQAIRGuide
from pyro_sqair.infer import VIMCO, check_sites
from pyro_sqair.models import SQAIR, GuidedWalkPrior, RandomWalkPrior
from pyro_sqair.scene.objects import Objects, SceneConfig
from pyro_sqair.scene.slots import PropagationSlots

D = 2


def scene(where: Tensor) -> Objects:
    """Objects that are all present, from where [B, N, 4]."""
    batch, num, _ = where.shape
    what = torch.linspace(-1, 1, D).expand(batch, num, D).to(where)
    return Objects(torch.ones(batch, num).to(where), where, what, torch.arange(num).expand(batch, num))


def propagate(prior, previous: Objects, memory: Tensor | None) -> tuple[Tensor, Objects, dict]:
    """One step: the new memory, the objects, and the sites."""

    def program():
        slots = PropagationSlots(previous)
        with pyro.plate("sequences", len(previous.pres), dim=-1):
            memory_ = prior(previous, memory, slots)
        return memory_, slots.objects(previous.id, D, previous.pres)

    trace = poutine.trace(program).get_trace()
    return *trace.nodes["_RETURN"]["value"], trace.nodes


def mean_of(site: dict) -> Tensor:
    return site["fn"].mean


class TestWalks:
    @pytest.mark.parametrize(("walk", "pace"), [(RandomWalkPrior, 0.0), (GuidedWalkPrior, 0.1)])
    def test_means_are_about_where_the_object_was(self, walk, pace):
        prior = walk(D, 6).double()
        previous = scene(torch.randn(5, 2, 4).double())
        memory = torch.randn(5, 2, 6).double()
        after, _, sites = propagate(prior, previous, memory)
        stats = prior.readout(after).split(prior.sizes, -1)
        for i in range(2):
            where, what = mean_of(sites[f"prop_{i}/where"]), mean_of(sites[f"prop_{i}/what"])
            torch.testing.assert_close(where, previous.where[:, i] + pace * stats[1][:, i])
            torch.testing.assert_close(what, previous.what[:, i] + pace * stats[2][:, i])


def test_the_physics_of_the_example_follows_a_ball_by_reflection():
    """A ball between two walls, whose path is a triangle wave, is predicted exactly from its third frame on."""
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "custom_prior.py"))
    wall, prior, memory = example["WALL"], example["Physics"](D).double(), None
    prior.trust.data.fill_(100.0)  # the sigmoid of this is 1: what is seen is believed
    steps, speed = 40, torch.tensor([0.11, -0.07]).double()
    start = torch.tensor([0.213, -0.307]).double()

    def path(t: int) -> Tensor:
        unfolded = (start + speed * t + wall) % (4 * wall)
        return torch.where(unfolded < 2 * wall, unfolded, 4 * wall - unfolded) - wall

    for t in range(1, steps):
        where = torch.cat([torch.full((2,), -1.0).double(), path(t - 1).atanh()]).expand(1, 1, 4)
        memory, _, sites = propagate(prior, scene(where), memory)
        mean = mean_of(sites["prop_0/where"])[0, 2:].tanh()
        torch.testing.assert_close(mean, path(t - 1) if t == 1 else path(t), rtol=0, atol=1e-9)
    assert sum(bool((path(t) - path(t - 1)).sign().ne(speed.sign()).any()) for t in range(1, steps)) > 10


@pytest.mark.parametrize(
    "prior",
    [lambda: RandomWalkPrior(D, 8), lambda: GuidedWalkPrior(D, 8)],
)
def test_fits_the_guide_and_everything_learns(prior):
    config = SceneConfig(2, D, image_size=(12, 12), glimpse_size=(6, 6))
    model, guide = SQAIR.build(config, 8, propagation=prior()), SQAIRGuide.build(config, 8)
    torch.nn.init.constant_(guide.discovery.pres[-1].bias, 9.0)
    frames = torch.rand(4, 3, 1, 12, 12)
    check_sites(model, guide, frames)
    objective = VIMCO(3)(model, guide)
    objective(frames).backward()
    learned = list(model.propagation_prior.named_parameters())
    missing = [name for name, p in learned if p.grad is None or not p.grad.isfinite().all()]
    assert not missing
    still = [name for name, p in learned if p.grad.abs().sum() == 0]
    assert not still
