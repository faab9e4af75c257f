# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The GRU propagation prior against one cell an object, and the objects that it leaves out."""

import pyro
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine

from pyro_sqair.models import GRUPropagationPrior
from pyro_sqair.scene.objects import Objects
from pyro_sqair.scene.slots import PropagationSlots

N, D, M = 3, 2, 8


def previous(*batch: int, most: int = N) -> Objects:
    pres = (torch.arange(N) < torch.randint(0, most + 1, (*batch, 1))).float()
    where, what = (torch.randn(*batch, N, size) * pres.unsqueeze(-1) for size in (4, D))
    return Objects(pres, where, what, torch.where(pres > 0, torch.arange(N), -1))


def run(prior, objects, memory):
    """The new memory and the trace of one step in plates of the objects' batch shape."""
    batch = objects.pres.shape[:-1]

    def program():
        slots = PropagationSlots(objects)
        with pyro.plate("particles", batch[0], dim=-2), pyro.plate("sequences", batch[1], dim=-1):
            return prior(objects, memory, slots)

    trace = poutine.trace(program).get_trace()
    trace.compute_log_prob()
    return trace.nodes["_RETURN"]["value"], trace


@pytest.mark.parametrize("most", [1, 2, 3])
def test_each_object_has_its_own_recurrence(most):
    prior, objects = GRUPropagationPrior(D, M), previous(2, 40, most=most)
    memory = torch.randn(2, 40, N, M)
    result, trace = run(prior, objects, memory)
    assert result.shape == (2, 40, N, M)
    assert f"prop_{most - 1}/pres" in trace.nodes
    assert f"prop_{most}/pres" not in trace.nodes
    for i in range(most):
        x = torch.cat([objects.what[..., i, :], objects.where[..., i, :]], -1)
        state = prior.gru(x, memory[..., i, :])
        torch.testing.assert_close(result[..., i, :], state)
        pres, where, what, where_scale, what_scale = prior.readout(state).split([1, 4, D, 4, D], -1)
        is_open = objects.pres[..., i] > 0
        logits = trace.nodes[f"prop_{i}/pres"]["fn"].base.logits
        torch.testing.assert_close(logits, pres.squeeze(-1) + 10)
        for name, loc, scale in (("where", where, where_scale), ("what", what, what_scale)):
            site = trace.nodes[f"prop_{i}/{name}"]
            law = torch.distributions.Normal(loc, F.softplus(scale) + 0.01)
            present = is_open & (trace.nodes[f"prop_{i}/pres"]["value"] > 0)
            expected = torch.where(present, law.log_prob(site["value"]).sum(-1), 0.0)
            torch.testing.assert_close(site["log_prob"], expected)


def test_objects_are_expected_to_persist():
    prior = GRUPropagationPrior(D, M)
    _, trace = run(prior, previous(2, 40), torch.zeros(2, 40, N, M))
    assert (trace.nodes["prop_0/pres"]["fn"].base.probs > 0.99).all()


@pytest.mark.parametrize("bias", [-50.0, 50.0])
def test_presence_bias(bias):
    objects = previous(2, 40)
    _, trace = run(GRUPropagationPrior(D, M, presence_bias=bias), objects, torch.zeros(2, 40, N, M))
    for i in range(N):
        expected = objects.pres[..., i] * (bias > 0)
        assert torch.equal(trace.nodes[f"prop_{i}/pres"]["value"], expected)


def test_standard_deviations_start_where_they_are_told():
    """With the same weights the biases of the standard deviations differ by scale_bias, and nothing else does."""
    torch.manual_seed(0)
    wide = GRUPropagationPrior(D, M)
    torch.manual_seed(0)
    narrow = GRUPropagationPrior(D, M, scale_bias=-3.0)
    assert torch.equal(wide.readout.weight, narrow.readout.weight)
    change = (narrow.readout.bias - wide.readout.bias).split([1, 4, D, 4, D])
    for part, expected in zip(change, (0.0, 0.0, 0.0, -3.0, -3.0), strict=True):
        torch.testing.assert_close(part, torch.full_like(part, expected))
