# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The discovery guide compared with a direct implementation of Algorithm 3, slot by slot."""

import dataclasses
import math

import pyro
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine

from pyro_sqair.experiments import AIRSystem, SQAIRSystem
from pyro_sqair.guides import DiscoveryGuide, mlp_vision
from pyro_sqair.nn.networks import SetEncoder
from pyro_sqair.scene.objects import Objects, SceneConfig
from pyro_sqair.scene.slots import DiscoverySlots

N, D, H, B = 3, 2, 8, 40
SCENE = SceneConfig(N, D, image_size=(12, 12), glimpse_size=(6, 6))


def discovery() -> DiscoveryGuide:
    return DiscoveryGuide(SCENE, mlp_vision(SCENE, H), SetEncoder(D, H), H).double()


def propagated(*batch: int) -> Objects:
    pres = (torch.arange(N) < torch.randint(0, N + 1, (*batch, 1))).double()
    where, what = (torch.randn(*pres.shape, size).double() * pres.unsqueeze(-1) for size in (4, D))
    return Objects(pres, where, what, torch.where(pres > 0, torch.arange(N), -1))


@pytest.mark.parametrize("batch", [(B,), (2, B)])
def test_algorithm_3(batch):
    guide, objects = discovery(), propagated(*batch)
    frame = torch.rand(B, 1, 12, 12).double()
    with pyro.plate_stack("batch", batch):
        trace = poutine.trace(guide).get_trace(frame, objects, DiscoverySlots(objects))
    trace.compute_log_prob()

    image = guide.image_encoder(frame.flatten(1)).expand(*batch, H)
    summary = guide.encoder(objects)
    cell = torch.nn.RNNCell(guide.rnn.input.in_features, H, dtype=torch.float64)
    cell.weight_ih, cell.bias_ih = guide.rnn.input.weight, guide.rnn.input.bias
    cell.weight_hh, cell.bias_hh = guide.rnn.hidden.weight, guide.rnn.hidden.bias
    hidden = guide.rnn.initial.expand(*batch, H)
    what, where, pres = torch.zeros(*batch, D).double(), torch.zeros(*batch, 4).double(), torch.ones(batch).double()
    room = N - objects.num_present
    for i in range(N):
        is_open = (room > i) & (pres > 0)
        x = torch.cat([image, summary, is_open.double().unsqueeze(-1), what, where, pres.unsqueeze(-1)], -1)
        hidden = cell(x.flatten(0, -2), hidden.flatten(0, -2)).unflatten(0, batch)
        loc, scale = guide.where(hidden).chunk(2, -1)
        q_where = torch.distributions.Normal(loc, F.softplus(scale - 3) + 0.01)
        where, what, pres = (trace.nodes[f"disc_{i}/{name}"]["value"] for name in ("where", "what", "pres"))
        q_what = torch.distributions.Normal(*guide.glimpse_encoder(frame, where))
        probs = torch.sigmoid(guide.pres(torch.cat([hidden, what], -1)).squeeze(-1))
        for name, value, q in (("where", where, q_where), ("what", what, q_what)):
            expected = torch.where(pres > 0, q.log_prob(value).sum(-1), 0.0)
            torch.testing.assert_close(trace.nodes[f"disc_{i}/{name}"]["log_prob"], expected)
        expected = torch.where(is_open, torch.where(pres > 0, probs, 1 - probs).log(), 0.0)
        torch.testing.assert_close(trace.nodes[f"disc_{i}/pres"]["log_prob"], expected)
        assert (pres <= is_open).all()
    assert (room == 0).any()


def test_initial_values():
    guide = discovery()
    assert (guide.pres[-1].bias == 1).all()
    assert guide.scale_bias == -3
    assert torch.equal(guide.rnn.initial, torch.zeros(H).double())


@pytest.mark.parametrize("system", [SQAIRSystem(H), AIRSystem(H)])
def test_initial_mean_of_where(system):
    """With a known object size the initial means of `where` shift by the logits of its box; nothing else changes."""
    scene = dataclasses.replace(SCENE, image_size=(12, 16))
    biases = []
    for config in (scene, dataclasses.replace(scene, object_size=(3, 6))):
        torch.manual_seed(0)
        biases.append(system.programs(config)[1].discovery.where[-1].bias)
    expected = torch.tensor([math.log(6 / 10), math.log(3 / 9), 0, 0, 0, 0, 0, 0])
    torch.testing.assert_close(biases[1] - biases[0], expected)
