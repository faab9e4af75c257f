# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The propagation guide compared with a direct implementation of Algorithm 2, object by object."""

import pyro
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine

from pyro_sqair.guides import NoView, PropagationGuide, WholeImage, mlp_vision
from pyro_sqair.guides.propagation import GatedAppearance, SharedFactor
from pyro_sqair.guides.vision import Appearance
from pyro_sqair.nn.networks import MLP
from pyro_sqair.scene.objects import Objects, SceneConfig
from pyro_sqair.scene.slots import PropagationSlots

N, D, H, B, K = 3, 2, 8, 30, 2
SCENE = SceneConfig(N, D, image_size=(12, 12), glimpse_size=(6, 6))
VIEWS = {"proposal": lambda: None, "image": lambda: WholeImage(MLP(144, [5]), 5), "none": NoView}


def propagation(view=None) -> PropagationGuide:
    return PropagationGuide(mlp_vision(SCENE, H).glimpse, H, view=view)


def previous(*batch: int, most: int = N) -> Objects:
    pres = (torch.arange(N) < torch.randint(0, most + 1, (*batch, 1))).double()
    where, what = (torch.randn(*pres.shape, size).double() * pres.unsqueeze(-1) for size in (4, D))
    return Objects(pres, where, what, torch.where(pres > 0, torch.arange(N), -1))


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("most", [1, N])
@pytest.mark.parametrize("batch", [(B,), (K, B)])
def test_algorithm_2(view, most, batch):
    guide, objects = propagation(VIEWS[view]()).double(), previous(*batch, most=most)
    torch.nn.init.zeros_(guide.pres[-1].bias)
    torch.nn.init.normal_(guide.factor.entries)
    frame, memory = torch.rand(B, 1, 12, 12).double(), torch.randn(*batch, N, H).double()
    with pyro.plate("particles", K, dim=-2), pyro.plate("sequences", B, dim=-1):
        trace = poutine.trace(guide).get_trace(frame, objects, memory, PropagationSlots(objects))
    trace.compute_log_prob()
    result = trace.nodes["_RETURN"]["value"]
    assert result.shape == (K, B, N, H)
    assert f"prop_{most - 1}/pres" in trace.nodes
    assert f"prop_{most}/pres" not in trace.nodes

    memory = memory.expand(K, B, N, H)
    cell = torch.nn.RNNCell(guide.relation.input.in_features, H, dtype=torch.float64)
    cell.weight_ih, cell.bias_ih = guide.relation.input.weight, guide.relation.input.bias
    cell.weight_hh, cell.bias_hh = guide.relation.hidden.weight, guide.relation.hidden.bias
    hidden, other = guide.relation.initial.expand(K, B, H), torch.zeros(K, B, D + 5).double()
    for i in range(most):
        pres_before, where_before, what_before = (
            field.select(len(batch), i).expand(K, B, *field.shape[len(batch) + 1 :]) for field in objects[:3]
        )
        state, is_open = memory[:, :, i], pres_before > 0
        mask = torch.sigmoid(guide.mask(state))
        if view == "proposal":  # lines 6-8
            seen = guide.glimpse_encoder(frame, where_before + 0.1 * guide.view.proposal(state), mask).loc
        elif view == "image":
            seen = guide.view.image_encoder(frame.flatten(1)).expand(K, B, -1)
        else:
            seen = frame.new_zeros(K, B, 0)
        latent = torch.cat([what_before, where_before, pres_before.unsqueeze(-1)], -1)
        x = torch.cat([seen, latent, state, other], -1)
        hidden = cell(x.flatten(0, 1), hidden.flatten(0, 1)).unflatten(0, (K, B))  # line 9

        change, scale = guide.where(torch.cat([hidden, where_before, state], -1)).chunk(2, -1)
        factor = (F.softplus(scale - 4) + 0.01).unsqueeze(-1) * guide.factor()
        q_where = torch.distributions.MultivariateNormal(where_before + change, scale_tril=factor)
        where, what, pres = (trace.nodes[f"prop_{i}/{name}"]["value"] for name in ("where", "what", "pres"))
        appearance = guide.glimpse_encoder(frame, where, mask)
        new = guide.temporal(torch.cat([hidden, where, *appearance], -1), state)  # line 13
        torch.testing.assert_close(result[:, :, i], new)
        q_what = guide.what(new, what_before, appearance)
        probs = torch.sigmoid(guide.pres(torch.cat([hidden, new, what], -1)).squeeze(-1))
        other = torch.cat([what, where, pres.unsqueeze(-1)], -1)

        for name, value, q in (("where", where, q_where), ("what", what, q_what)):
            expected = torch.where(pres > 0, q.log_prob(value), 0.0)
            torch.testing.assert_close(trace.nodes[f"prop_{i}/{name}"]["log_prob"], expected)
        expected = torch.where(is_open, torch.where(pres > 0, probs, 1 - probs).log(), 0.0)
        torch.testing.assert_close(trace.nodes[f"prop_{i}/pres"]["log_prob"], expected)
        assert (pres <= is_open).all(), "Eq. 13: an absent object cannot be propagated"
        assert 0 < pres.sum() < is_open.sum()


@pytest.mark.parametrize(
    ("view", "near", "far"), [("proposal", True, False), ("image", True, True), ("none", False, False)]
)
def test_which_pixels_where_depends_on(view, near, far):
    """The mean of `where` depends on pixels near the object, or on all, only with a view of them."""
    guide = propagation(VIEWS[view]())
    objects = Objects(
        torch.ones(1, 1), torch.tensor([[[-2.0, -2.0, 0.0, 0.0]]]), torch.randn(1, 1, D), torch.zeros(1, 1)
    )
    frame = torch.rand(1, 1, 12, 12, requires_grad=True)
    with pyro.plate("sequences", 1, dim=-1):
        trace = poutine.trace(guide).get_trace(frame, objects, torch.zeros(1, 1, H), PropagationSlots(objects))
    loc = trace.nodes["prop_0/where"]["fn"].base.loc
    (gradient,) = torch.autograd.grad(loc.sum(), frame, allow_unused=True, materialize_grads=True)
    centre = torch.zeros_like(frame)
    centre[..., 4:8, 4:8] = 1  # a box of an eighth of the image's width, and the neighbours that interpolation reads
    assert (gradient[centre > 0] != 0).any() == near
    assert (gradient[centre == 0] != 0).any() == far


def test_initial_values():
    guide = propagation()
    assert (guide.pres[-1].bias == 5).all()
    assert (guide.what.gates.bias == 1).all()
    assert (guide.mask[-1].bias == 1).all()
    assert torch.equal(guide.factor(), torch.eye(4))
    assert guide.scale_bias == -4
    assert (guide.initial_memory == 0).all()
    assert "initial_memory" not in guide.state_dict()


def test_shared_factor():
    factor = SharedFactor(4).double()
    torch.nn.init.normal_(factor.entries)
    matrix = factor()
    assert torch.equal(matrix, matrix.tril())
    torch.testing.assert_close(matrix.diagonal().log(), factor.entries[[0, 2, 5, 9]])
    assert torch.equal(matrix[1:, 0], factor.entries[[1, 3, 6]])
    assert torch.autograd.gradcheck(
        lambda entries: torch.func.functional_call(factor, {"entries": entries}), factor.entries
    )


@pytest.mark.parametrize("gate", [None, -100.0, 100.0])
def test_gated_appearance(gate):
    """A blend of the previous value, the glimpse and the expectation, whose scale is positive whatever the gates."""
    what = GatedAppearance(H, D)
    if gate is not None:
        torch.nn.init.constant_(what.gates.bias, gate)
    state, before, glimpse = torch.randn(5, H), torch.randn(5, D), Appearance(torch.randn(5, D), torch.rand(5, D) + 0.1)
    q = what(state, before, glimpse).base_dist
    loc, scale = what.expected(state).chunk(2, -1)
    keep, skip, tau = (torch.sigmoid(what.gates(state)) * 0.9999).chunk(3, -1)
    torch.testing.assert_close(q.loc, keep * before + (1 - skip) * glimpse.loc + (1 - tau) * loc)
    torch.testing.assert_close(q.scale, (1 - skip) * glimpse.scale + (1 - tau) * (F.softplus(scale) + 0.01))
    assert (q.scale > 0).all()
    if gate == 100:
        torch.testing.assert_close(q.loc, before, rtol=1e-3, atol=1e-2)
