# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The propagation guide against Algorithm 2 written out, object by object."""

import pyro
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine

from pyro_sqair.guides import GatedAppearance, PropagationGuide, SharedFactor, mlp_glimpse_encoder
from pyro_sqair.scene.objects import Objects
from pyro_sqair.scene.slots import PropagationSlots

N, D, H, B, K = 3, 2, 8, 30, 2


def propagation() -> PropagationGuide:
    guide = PropagationGuide(mlp_glimpse_encoder(D, H, 1, (6, 6)), D, H, presence_bias=0.0).double()
    torch.nn.init.normal_(guide.factor.entries)
    return guide


def previous(*batch: int, most: int = N) -> Objects:
    pres = (torch.arange(N) < torch.randint(0, most + 1, (*batch, 1))).double()
    where, what = (torch.randn(*pres.shape, size).double() * pres.unsqueeze(-1) for size in (4, D))
    return Objects(pres, where, what, torch.where(pres > 0, torch.arange(N), -1))


def run(guide, frame, objects, memory):
    """The new memory and a trace, in plates of K particles and B sequences."""

    def program():
        with pyro.plate("particles", K, dim=-2), pyro.plate("sequences", B, dim=-1):
            return guide(frame, objects, memory, PropagationSlots(objects))

    trace = poutine.trace(program).get_trace()
    trace.compute_log_prob()
    return trace.nodes["_RETURN"]["value"], trace


@pytest.mark.parametrize("most", [1, N])
@pytest.mark.parametrize("batch", [(B,), (K, B)])
def test_algorithm_2(most, batch):
    guide, objects = propagation(), previous(*batch, most=most)
    frame, memory = torch.rand(B, 1, 12, 12).double(), torch.randn(*batch, N, H).double()
    result, trace = run(guide, frame, objects, memory)
    assert result.shape == (K, B, N, H)
    assert f"prop_{most - 1}/pres" in trace.nodes
    assert f"prop_{most}/pres" not in trace.nodes

    pres_before, where_before, what_before = (
        f.expand(K, *f.shape[-e:]) for f, e in zip(objects[:3], (2, 3, 3), strict=True)
    )
    memory = memory.expand(K, B, N, H)
    cell = torch.nn.RNNCell(D + (D + 5) + H + (D + 5), H, dtype=torch.float64)
    cell.load_state_dict(
        {
            "weight_ih": guide.relation.input.weight,
            "bias_ih": guide.relation.input.bias,
            "weight_hh": guide.relation.hidden.weight,
            "bias_hh": guide.relation.hidden.bias,
        }
    )
    hidden, other = guide.relation.initial.expand(K * B, H), torch.zeros(K, B, D + 5).double()
    for i in range(most):
        state, where_i, what_i = memory[:, :, i], where_before[:, :, i], what_before[:, :, i]
        is_open = pres_before[:, :, i] > 0
        mask = guide.mask(state)
        proposed = guide.glimpse_encoder(frame, where_i + 0.1 * guide.view.proposal(state), mask).loc
        latent = torch.cat([what_i, where_i, is_open.double().unsqueeze(-1)], -1)
        x = torch.cat([proposed, latent, state, other], -1)  # line 9
        hidden = cell(x.reshape(K * B, -1), hidden)
        relation = hidden.reshape(K, B, H)

        change, scale = guide.where(torch.cat([relation, where_i, state], -1)).chunk(2, -1)
        factor = (F.softplus(scale - 4) + 0.01).unsqueeze(-1) * guide.factor()
        where_law = torch.distributions.MultivariateNormal(where_i + change, scale_tril=factor)
        where, what, pres = (trace.nodes[f"prop_{i}/{name}"]["value"] for name in ("where", "what", "pres"))
        seen = guide.glimpse_encoder(frame, where, mask)
        new = guide.temporal(torch.cat([relation, where, *seen], -1), state)  # line 13
        torch.testing.assert_close(result[:, :, i], new)
        what_law = guide.what(new, what_i, *seen)
        probs = torch.sigmoid(guide.pres(torch.cat([relation, new, what], -1)).squeeze(-1))
        other = torch.cat([what, where, pres.unsqueeze(-1)], -1)

        for name, value, law in (("where", where, where_law), ("what", what, what_law)):
            expected = torch.where(pres > 0, law.log_prob(value), 0.0)
            torch.testing.assert_close(trace.nodes[f"prop_{i}/{name}"]["log_prob"], expected)
        expected = torch.where(is_open, torch.where(pres > 0, probs, 1 - probs).log(), 0.0)
        torch.testing.assert_close(trace.nodes[f"prop_{i}/pres"]["log_prob"], expected)
        assert (pres <= is_open).all(), "Eq. 13: what was not there cannot be propagated"
        assert 0 < pres.sum() < is_open.sum()


def test_starting_points():
    guide = PropagationGuide(mlp_glimpse_encoder(D, H, 1, (6, 6)), D, H)
    assert (guide.pres[-1].bias == 5).all()
    assert (guide.what.gates.bias == 1).all()
    assert torch.equal(guide.factor(), torch.eye(4))
    assert guide.scale_bias == -4
    assert (guide.initial_memory == 0).all()
    assert "initial_memory" not in guide.state_dict()


def test_shared_factor():
    factor = SharedFactor(4).double()
    torch.nn.init.normal_(factor.entries)
    matrix = factor()
    assert torch.equal(matrix, matrix.tril())
    assert (matrix.diagonal() > 0).all()
    assert torch.equal(matrix.diagonal().log().round(decimals=9), factor.entries[[0, 2, 5, 9]].round(decimals=9))
    assert torch.autograd.gradcheck(
        lambda entries: torch.func.functional_call(factor, {"entries": entries}), factor.entries
    )


class TestGatedAppearance:
    def law(self, appearance, **kwargs):
        parts = {"state": torch.randn(5, H), "previous": torch.randn(5, D)}
        parts |= {"seen_loc": torch.randn(5, D), "seen_scale": torch.rand(5, D) + 0.1}
        parts |= kwargs
        return appearance(**parts).base_dist, parts

    def test_blend(self):
        appearance = GatedAppearance(H, D)
        law, parts = self.law(appearance)
        loc, scale = appearance.expected(parts["state"]).chunk(2, -1)
        forget, skip, tau = (torch.sigmoid(appearance.gates(parts["state"])) * 0.9999).chunk(3, -1)
        expected = forget * parts["previous"] + (1 - skip) * parts["seen_loc"] + (1 - tau) * loc
        torch.testing.assert_close(law.loc, expected)
        expected = (1 - skip) * parts["seen_scale"] + (1 - tau) * (F.softplus(scale) + 0.01)
        torch.testing.assert_close(law.scale, expected)

    @pytest.mark.parametrize("gate", [-100.0, 100.0])
    def test_deviation_stays_positive(self, gate):
        appearance = GatedAppearance(H, D)
        torch.nn.init.constant_(appearance.gates.bias, gate)
        law, parts = self.law(appearance)
        assert (law.scale > 0).all()
        if gate > 0:  # everything is kept
            torch.testing.assert_close(law.loc, parts["previous"], rtol=1e-3, atol=1e-2)
