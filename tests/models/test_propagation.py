# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The propagation priors compared with one recurrence per object, and the physics prior of the example."""

import runpy
from pathlib import Path

import pyro
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine
from torch import Tensor

from pyro_sqair.experiments import SQAIRSystem
from pyro_sqair.infer import VIMCO, check_sites
from pyro_sqair.models import GRUPropagationPrior, GuidedWalkConfig, GuidedWalkPrior, RandomWalkConfig, RandomWalkPrior
from pyro_sqair.scene.objects import Objects, SceneConfig
from pyro_sqair.scene.slots import PropagationSlots

N, D, M, K, B = 3, 2, 8, 2, 40
WALKS = {GRUPropagationPrior: (0, 1), RandomWalkPrior: (1, 0), GuidedWalkPrior: (1, 0.1)}


def previous(most: int = N) -> Objects:
    pres = (torch.arange(N) < torch.randint(0, most + 1, (K, B, 1))).double()
    where, what = (torch.randn(K, B, N, size).double() * pres.unsqueeze(-1) for size in (4, D))
    return Objects(pres, where, what, torch.where(pres > 0, torch.arange(N), -1))


def run(prior, objects: Objects, memory: Tensor | None) -> tuple[Tensor, poutine.Trace]:
    """The new memory and the trace of one step, in plates of the objects' batch shape."""
    with pyro.plate_stack("batch", objects.pres.shape[:-1]):
        trace = poutine.trace(prior).get_trace(objects, memory, PropagationSlots(objects))
    trace.compute_log_prob()
    return trace.nodes["_RETURN"]["value"], trace


@pytest.mark.parametrize("kind", WALKS)
@pytest.mark.parametrize("most", [1, 2, 3])
def test_each_object_has_its_own_recurrence(kind, most):
    prior, objects, (persistence, gain) = kind(D, M).double(), previous(most), WALKS[kind]
    memory = torch.randn(K, B, N, M).double()
    result, trace = run(prior, objects, memory)
    assert result.shape == (K, B, N, M)
    assert f"prop_{most - 1}/pres" in trace.nodes
    assert f"prop_{most}/pres" not in trace.nodes
    for i in range(most):
        where_before, what_before = objects.where[..., i, :], objects.what[..., i, :]
        state = prior.gru(torch.cat([what_before, where_before], -1), memory[..., i, :])
        torch.testing.assert_close(result[..., i, :], state)
        pres, where, what, where_scale, what_scale = prior.readout(state).split([1, 4, D, 4, D], -1)
        site = trace.nodes[f"prop_{i}/pres"]
        torch.testing.assert_close(site["fn"].base.logits, pres.squeeze(-1) + 10)
        present = (objects.pres[..., i] > 0) & (site["value"] > 0)
        for name, before, change, scale in (
            ("where", where_before, where, where_scale),
            ("what", what_before, what, what_scale),
        ):
            site = trace.nodes[f"prop_{i}/{name}"]
            p = torch.distributions.Normal(persistence * before + gain * change, F.softplus(scale) + 0.01)
            expected = torch.where(present, p.log_prob(site["value"]).sum(-1), 0.0)
            torch.testing.assert_close(site["log_prob"], expected)


@pytest.mark.parametrize("bias", [-50.0, 50.0])
def test_presence_bias(bias):
    objects = previous()
    _, trace = run(GRUPropagationPrior(D, M, presence_bias=bias).double(), objects, torch.zeros(K, B, N, M).double())
    for i in range(N):
        assert torch.equal(trace.nodes[f"prop_{i}/pres"]["value"], objects.pres[..., i] * (bias > 0))


def test_scale_bias():
    """It is added to the biases of the standard deviations, and nothing else changes."""
    priors = []
    for bias in (0.0, -3.0):
        torch.manual_seed(0)
        priors.append(GRUPropagationPrior(D, M, scale_bias=bias))
    wide, narrow = (prior.readout for prior in priors)
    assert torch.equal(wide.weight, narrow.weight)
    torch.testing.assert_close(narrow.bias - wide.bias, torch.tensor([0.0] * (1 + 4 + D) + [-3.0] * (4 + D)))


def test_physics_of_the_example():
    """It predicts a ball that bounces between two walls, a triangle wave, exactly from the third frame on."""
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "custom_prior.py"))
    wall, prior, memory = example["WALL"], example["Physics"](D).double(), None
    prior.gains.data.fill_(100.0)  # a sigmoid of 1: the observed velocity is used as it is
    steps, speed = 40, torch.tensor([0.11, -0.07]).double()
    start = torch.tensor([0.213, -0.307]).double()

    def path(t: int) -> Tensor:
        unfolded = (start + speed * t + wall) % (4 * wall)
        return torch.where(unfolded < 2 * wall, unfolded, 4 * wall - unfolded) - wall

    for t in range(1, steps):
        where = torch.cat([torch.full((2,), -1.0).double(), path(t - 1).atanh()]).expand(1, 1, 4)
        objects = Objects(torch.ones(1, 1).double(), where, torch.zeros(1, 1, D).double(), torch.zeros(1, 1))
        memory, trace = run(prior, objects, memory)
        mean = trace.nodes["prop_0/where"]["fn"].mean[0, 2:].tanh()
        torch.testing.assert_close(mean, path(t - 1) if t == 1 else path(t), rtol=0, atol=1e-9)
    assert sum(bool((path(t) - path(t - 1)).sign().ne(speed.sign()).any()) for t in range(1, steps)) > 10


@pytest.mark.parametrize("prior", [RandomWalkConfig(), GuidedWalkConfig()])
def test_sites_and_gradients(prior):
    config = SceneConfig(2, D, image_size=(12, 12), glimpse_size=(6, 6))
    model, guide = SQAIRSystem(8, propagation=prior).programs(config)
    torch.nn.init.constant_(guide.discovery.pres[-1].bias, 9.0)
    frames = torch.rand(4, 3, 1, 12, 12)
    check_sites(model, guide, frames)
    VIMCO(3)(model, guide)(frames).backward()
    for name, parameter in model.propagation_prior.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
