# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The discovery guide against Algorithm 3 written out, slot by slot."""

import dataclasses
import math

import pyro
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine

from pyro_sqair.guides import AIRGuide, DiscoveryGuide, SQAIRGuide, mlp_glimpse_encoder
from pyro_sqair.nn.networks import MLP, SetEncoder
from pyro_sqair.scene.objects import Objects, SceneConfig
from pyro_sqair.scene.slots import DiscoverySlots

N, D, H, B = 3, 2, 8, 40


def discovery() -> DiscoveryGuide:
    glimpse = mlp_glimpse_encoder(D, H, 1, (6, 6))
    return DiscoveryGuide(MLP(144, [H]), H, SetEncoder(D, H), glimpse, D, H).double()


def propagated(*batch: int) -> Objects:
    pres = (torch.arange(N) < torch.randint(0, N + 1, (*batch, 1))).double()
    where, what = (torch.randn(*pres.shape, size).double() * pres.unsqueeze(-1) for size in (4, D))
    return Objects(pres, where, what, torch.where(pres > 0, torch.arange(N), -1))


def run(guide, frame, objects):
    """A trace, in plates of the objects' batch shape."""

    def program():
        plates = zip(("sequences", "particles"), reversed(objects.pres.shape[:-1]), strict=False)
        with pyro.plate_stack("batch", [size for _, size in plates][::-1]):
            guide(frame, objects, DiscoverySlots(objects))

    trace = poutine.trace(program).get_trace()
    trace.compute_log_prob()
    return trace


@pytest.mark.parametrize("batch", [(B,), (2, B)])
def test_algorithm_3(batch):
    guide, objects = discovery(), propagated(*batch)
    frame = torch.rand(B, 1, 12, 12).double()
    trace = run(guide, frame, objects)

    image = guide.image_encoder(frame.flatten(1)).expand(*batch, H)
    summary = guide.encoder(objects)
    cell = torch.nn.RNNCell(2 * H + 1 + D + 4 + 1, H, dtype=torch.float64)
    cell.load_state_dict(
        {
            "weight_ih": guide.rnn.input.weight,
            "bias_ih": guide.rnn.input.bias,
            "weight_hh": guide.rnn.hidden.weight,
            "bias_hh": guide.rnn.hidden.bias,
        }
    )
    hidden = guide.rnn.initial.expand(*batch, H)
    what, where, pres = torch.zeros(*batch, D).double(), torch.zeros(*batch, 4).double(), torch.ones(batch).double()
    room = N - objects.num_present
    for i in range(N):
        is_open = (room > i) & (pres > 0)
        x = torch.cat([image, summary, is_open.double().unsqueeze(-1), what, where, pres.unsqueeze(-1)], -1)
        hidden = cell(x.reshape(-1, x.shape[-1]), hidden.reshape(-1, H)).reshape(*batch, H)
        loc, scale = guide.where(hidden).chunk(2, -1)
        where_law = torch.distributions.Normal(loc, F.softplus(scale - 3) + 0.01)
        where, what, pres = (trace.nodes[f"disc_{i}/{name}"]["value"] for name in ("where", "what", "pres"))
        what_law = torch.distributions.Normal(*guide.glimpse_encoder(frame, where))
        probs = torch.sigmoid(guide.pres(torch.cat([hidden, what], -1)).squeeze(-1))
        for name, value, law in (("where", where, where_law), ("what", what, what_law)):
            expected = torch.where(pres > 0, law.log_prob(value).sum(-1), 0.0)
            torch.testing.assert_close(trace.nodes[f"disc_{i}/{name}"]["log_prob"], expected)
        expected = torch.where(is_open, torch.where(pres > 0, probs, 1 - probs).log(), 0.0)
        torch.testing.assert_close(trace.nodes[f"disc_{i}/pres"]["log_prob"], expected)
        assert (pres <= is_open).all()
    assert (room == 0).any()


def test_starting_points():
    guide = discovery()
    assert (guide.pres[-1].bias == 1).all()
    assert guide.scale_bias == -3
    assert torch.equal(guide.rnn.initial, torch.zeros(H).double())


@pytest.mark.parametrize("build", [SQAIRGuide.build, AIRGuide.build])
def test_search_starts_from_the_usual_box(build):
    """With the same weights the means of a fresh network move by the logits of that box, and nothing else does."""
    scene = SceneConfig(N, D, image_size=(12, 16), glimpse_size=(6, 6))
    known = dataclasses.replace(scene, object_size=(3, 6))
    biases = []
    for config in (scene, known):
        torch.manual_seed(0)
        biases.append(build(config, H).discovery.where[-1].bias)
    expected = torch.tensor([math.log(6 / 10), math.log(3 / 9), 0, 0, 0, 0, 0, 0])
    torch.testing.assert_close(biases[1] - biases[0], expected)
