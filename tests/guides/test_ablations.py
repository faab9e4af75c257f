# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Propagation guides without one of their parts: what each can see, that weights stay exact, and what is propagated."""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pytest
import torch
import torch.nn.functional as F
from exact_sqair import World, assert_average_is_the_evidence, make_case, make_neural_guide, randomise, weigh
from pyro import poutine
from torch import Tensor, nn

from pyro_sqair.guides import (
    ForgetfulPropagationGuide,
    NoView,
    PropagationGuide,
    SQAIRGuide,
    WholeImage,
    mlp_glimpse_encoder,
)
from pyro_sqair.infer import VIMCO, check_sites
from pyro_sqair.models import SQAIR
from pyro_sqair.nn.networks import MLP
from pyro_sqair.scene.objects import Objects, SceneConfig, stack_objects
from pyro_sqair.scene.slots import PropagationSlots

N, D, H, T, B, K = 3, 2, 8, 4, 20, 2
SCENE = SceneConfig(num_slots=N, what_dim=D, image_size=(12, 12), glimpse_size=(6, 6))


def image_conditioned(guide: SQAIRGuide, hidden_size: int = H) -> PropagationGuide:
    """Propagation that sees the whole image, with discovery's encoder."""
    find = guide.discovery
    view = WholeImage(find.image_encoder, hidden_size)
    return PropagationGuide(find.glimpse_encoder, find.what_dim, hidden_size, presence_bias=0.5, view=view)


def unsighted(guide: SQAIRGuide, hidden_size: int = H) -> PropagationGuide:
    find = guide.discovery
    return PropagationGuide(find.glimpse_encoder, find.what_dim, hidden_size, presence_bias=0.5, view=NoView())


def forgetful(guide: SQAIRGuide, hidden_size: int = H) -> ForgetfulPropagationGuide:
    return ForgetfulPropagationGuide(stay=0.3)


ABLATIONS = [image_conditioned, unsighted, forgetful]
Ablation = Callable[..., PropagationGuide | ForgetfulPropagationGuide]


def programs(ablation: Ablation) -> tuple[SQAIR, SQAIRGuide]:
    """A small model and the paper's guide with another propagation."""
    guide = SQAIRGuide.build(SCENE, H)
    return SQAIR.build(SCENE, H), SQAIRGuide(guide.discovery, ablation(guide), SCENE)


def video(length: int = T, batch: int = B) -> Tensor:
    return torch.rand(length, batch, 1, 12, 12)


@pytest.mark.parametrize("ablation", ABLATIONS)
class TestEvery:
    def test_sites_are_the_models(self, ablation: Ablation) -> None:
        model, guide = programs(ablation)
        check_sites(model, guide, video())

    def test_every_parameter_gets_a_finite_gradient(self, ablation: Ablation) -> None:
        model, guide = programs(ablation)
        model, guide, frames = model.double(), guide.double(), video().double()
        for parameter in guide.parameters():
            with torch.no_grad():  # no weight is zero, which would hide what is behind it
                parameter += 0.01 * torch.randn_like(parameter)
        VIMCO(3)(model, guide)(frames).backward()
        for name, parameter in guide.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert (parameter.grad != 0).any(), name

    def test_ids_are_of_objects_that_were_there(self, ablation: Ablation) -> None:
        """One that stays keeps its id, one that is found gets a new one."""
        _, guide = programs(ablation)
        trace = poutine.trace(guide).get_trace(video())
        states = trace.nodes["_RETURN"]["value"]
        stayed = found = 0
        for t in range(1, T):
            before, now = states[t - 1].objects, states[t].objects
            stays = [trace.nodes.get(f"frame_{t}/prop_{i}/pres", {"value": torch.zeros(B)})["value"] for i in range(N)]
            kept = torch.where(torch.stack(stays, -1) > 0, before.id, -1)
            for b in range(B):
                old = [i for i in kept[b].tolist() if i >= 0]
                new = [i for i in now.id[b].tolist() if i >= 0][len(old) :]
                assert now.id[b, : len(old)].tolist() == old
                assert new == list(range(states[t - 1].next_id[b], states[t - 1].next_id[b] + len(new)))
                stayed, found = stayed + len(old), found + len(new)
        assert min(stayed, found) > 20

    def test_average_weight_is_the_evidence(self, ablation: Ablation) -> None:
        torch.set_default_dtype(torch.float64)
        world = World(1, 2, "fixed", crowd=0.0)

        def guide(world) -> SQAIRGuide:
            neural = make_neural_guide(world)
            follow = ablation(neural, hidden_size=4)
            if isinstance(follow, nn.Module):
                randomise(follow, 0.15)
                with torch.no_grad():  # proposals as broad as the prior, for what the two share as well
                    follow.glimpse_encoder.what.bias[1:] = 0.8
                    follow.scale_bias.fill_(0.1)
                    follow.what.gates.bias.fill_(1.0)
                    follow.what.expected.bias[1:] = 0.4
            return SQAIRGuide(neural.discovery, follow, world.scene)

        case = make_case(world, guide)
        assert_average_is_the_evidence(weigh(case, 15))


def previous(*batch: int) -> Objects:
    pres = torch.ones(*batch, N).double()
    where, what = (torch.randn(*pres.shape, size).double() for size in (4, D))
    return Objects(pres, where, what, torch.arange(N).expand(*batch, N))


@pytest.mark.parametrize("batch", [(B,), (K, B)])
@pytest.mark.parametrize("sighted", [True, False], ids=["image", "unsighted"])
def test_against_the_algorithm_written_out(sighted: bool, batch: tuple[int, ...]) -> None:
    glimpse, image = mlp_glimpse_encoder(D, H, 1, (6, 6)), MLP(144, [5])
    guide = PropagationGuide(glimpse, D, H, view=WholeImage(image, 5) if sighted else NoView())
    guide, objects = guide.double(), previous(*batch)
    frame, memory = torch.rand(B, 1, 12, 12).double(), torch.randn(*batch, N, H).double()

    def program() -> Tensor:
        with pyro.plate("particles", K, dim=-2), pyro.plate("sequences", B, dim=-1):
            return guide(frame, objects, memory, PropagationSlots(objects))

    trace = poutine.trace(program).get_trace()
    embedding = image(frame.flatten(1)) if sighted else frame.new_zeros(B, 0)
    weight, bias = guide.relation.input.weight, guide.relation.input.bias
    hidden, other = guide.relation.initial.expand(K, B, H), torch.zeros(K, B, D + 5).double()
    for i in range(N):
        where_i, what_i, state = (value[..., i, :].expand(K, B, -1) for value in (objects.where, objects.what, memory))
        latent = torch.cat([what_i, where_i, torch.ones(K, B, 1).double()], -1)
        x = torch.cat([embedding.expand(K, B, -1), latent, state, other], -1)
        hidden = torch.tanh(F.linear(x, weight, bias) + guide.relation.hidden(hidden))
        change, scale = guide.where(torch.cat([hidden, where_i, state], -1)).chunk(2, -1)
        nodes = {name: trace.nodes[f"prop_{i}/{name}"] for name in ("where", "what", "pres")}
        where, what, pres = (node["value"] for node in nodes.values())
        law = torch.distributions.Normal(where_i + change, F.softplus(scale - 4) + 0.01)  # the factor is the identity
        torch.testing.assert_close(nodes["where"]["fn"].base.log_prob(where), law.log_prob(where).sum(-1))
        seen = guide.glimpse_encoder(frame, where, guide.mask(state))
        new = guide.temporal(torch.cat([hidden, where, *seen], -1), state)
        torch.testing.assert_close(trace.nodes["_RETURN"]["value"][:, :, i], new)
        logits = guide.pres(torch.cat([hidden, new, what], -1)).squeeze(-1)
        torch.testing.assert_close(nodes["pres"]["fn"].base.logits, logits)
        other = torch.cat([what, where, pres.unsqueeze(-1)], -1)


@pytest.mark.parametrize(
    ("ablation", "near", "far"),
    [
        pytest.param(None, True, False, id="proposal"),
        pytest.param(image_conditioned, True, True, id="image"),
        pytest.param(unsighted, False, False, id="unsighted"),
    ],
)
def test_what_where_depends_on(ablation: Ablation | None, near: bool, far: bool) -> None:
    """The mean of ``where`` moves with the frame near the object, and with the rest of it, only where that is seen."""
    guide = SQAIRGuide.build(SCENE, H)
    follow = guide.propagation if ablation is None else ablation(guide)
    objects = Objects(
        torch.ones(1, 1), torch.tensor([[[-2.0, -2.0, 0.0, 0.0]]]), torch.randn(1, 1, D), torch.zeros(1, 1)
    )
    memory = torch.zeros(1, 1, H)
    frame = torch.rand(1, 1, 12, 12, requires_grad=True)

    with pyro.plate("sequences", 1, dim=-1):
        trace = poutine.trace(follow).get_trace(frame, objects, memory, PropagationSlots(objects))
    loc = trace.nodes["prop_0/where"]["fn"].base.loc
    gradient = torch.autograd.grad(loc.sum(), frame, allow_unused=True)[0] if loc.requires_grad else None
    gradient = torch.zeros_like(frame) if gradient is None else gradient
    centre = torch.zeros_like(frame)
    centre[..., 4:8, 4:8] = 1  # a box a tenth of the image wide, and what interpolation reaches
    assert (gradient[centre > 0] != 0).any() == near
    assert (gradient[centre == 0] != 0).any() == far


class TestForgetful:
    def test_every_frame_is_discovered_anew(self) -> None:
        guide = SQAIRGuide.build(SCENE, H)
        guide = SQAIRGuide(guide.discovery, ForgetfulPropagationGuide(), SCENE)
        objects = stack_objects([state.objects for state in guide(video(T, 60))])
        assert objects.num_present.sum() > 200
        for t in range(1, T):
            before = objects.id[:t].amax((0, 2)).unsqueeze(-1)
            assert (objects.id[t] > before)[objects.pres[t] > 0].all()

    def test_an_object_that_stays_all_the_same_has_a_finite_weight(self) -> None:
        """By default that hardly ever happens; where it does, its presence adds 13.8 nats."""
        objects, follow = previous(B), ForgetfulPropagationGuide()

        def program() -> None:
            with pyro.plate("sequences", B, dim=-1):
                follow(torch.rand(B, 1, 12, 12).double(), objects, None, PropagationSlots(objects))

        for stays, expected in ((0.0, 0.0), (1.0, -13.8)):
            pres = {f"prop_{i}/pres": torch.full((B,), stays).double() for i in range(N)}
            trace = poutine.trace(poutine.condition(program, data=pres)).get_trace()
            trace.compute_log_prob()
            for name in pres:
                log_prob = trace.nodes[name]["log_prob"]
                torch.testing.assert_close(log_prob, torch.full_like(log_prob, expected), atol=0.02, rtol=0)
            where = trace.nodes["prop_0/where"]["log_prob"]
            assert where.isfinite().all()
            assert (where != 0).all() == (stays == 1)

    @pytest.mark.parametrize(("stay", "std"), [(0.0, 1.0), (1.0, 1.0), (-0.1, 1.0), (0.5, 0.0)])
    def test_bad_input(self, stay: float, std: float) -> None:
        with pytest.raises(ValueError, match="expected a probability of staying in .* got"):
            ForgetfulPropagationGuide(stay, std)
