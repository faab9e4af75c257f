# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Ablations of the propagation guide: sites, gradients and exact weights."""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pytest
import torch
from exact_sqair import World, assert_average_is_the_evidence, make_case, make_neural_guide, randomise, weigh
from pyro import poutine
from torch import Tensor, nn

from pyro_sqair.experiments import SQAIRSystem
from pyro_sqair.guides import ForgetfulPropagationGuide, NoView, PropagationGuide, SQAIRGuide, WholeImage
from pyro_sqair.infer import VIMCO, check_sites
from pyro_sqair.models import SQAIR
from pyro_sqair.scene.objects import Objects, SceneConfig, stack_objects
from pyro_sqair.scene.slots import PropagationSlots

N, D, H, T, B = 3, 2, 8, 4, 20
SCENE = SceneConfig(num_slots=N, what_dim=D, image_size=(12, 12), glimpse_size=(6, 6))


def whole_image(guide: SQAIRGuide, hidden_size: int = H) -> PropagationGuide:
    """Propagation that sees the whole image, with discovery's encoder."""
    view = WholeImage(guide.discovery.image_encoder, hidden_size)
    return PropagationGuide(guide.discovery.glimpse_encoder, hidden_size, view=view)


def no_view(guide: SQAIRGuide, hidden_size: int = H) -> PropagationGuide:
    return PropagationGuide(guide.discovery.glimpse_encoder, hidden_size, view=NoView())


def forgetful(guide: SQAIRGuide, hidden_size: int = H) -> ForgetfulPropagationGuide:
    return ForgetfulPropagationGuide(stay=0.3)


ABLATIONS = [whole_image, no_view, forgetful]
Ablation = Callable[..., PropagationGuide | ForgetfulPropagationGuide]


def programs(ablation: Ablation) -> tuple[SQAIR, SQAIRGuide]:
    """A small model and the paper's guide with another propagation guide."""
    model, guide = SQAIRSystem(H).programs(SCENE)
    return model, SQAIRGuide(guide.discovery, ablation(guide), SCENE)


def video(length: int = T, batch: int = B) -> Tensor:
    return torch.rand(length, batch, 1, 12, 12)


@pytest.mark.parametrize("ablation", ABLATIONS)
class TestEvery:
    def test_sites_and_gradients(self, ablation: Ablation) -> None:
        model, guide = (program.double() for program in programs(ablation))
        frames = video().double()
        check_sites(model, guide, frames)
        for parameter in guide.parameters():
            with torch.no_grad():  # a weight of zero would block gradients
                parameter += 0.01 * torch.randn_like(parameter)
        VIMCO(3)(model, guide)(frames).backward()
        for name, parameter in guide.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert (parameter.grad != 0).any(), name

    def test_propagated_objects_keep_their_ids(self, ablation: Ablation) -> None:
        """A propagated object keeps its id, a discovered one gets the next new id."""
        _, guide = programs(ablation)
        if isinstance(guide.propagation, PropagationGuide):
            torch.nn.init.constant_(guide.propagation.pres[-1].bias, 0.5)  # some objects stay and some disappear
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
                with torch.no_grad():  # proposals as broad as the prior, also in the shared encoder
                    follow.glimpse_encoder.what.bias[1:] = 0.8
                    follow.scale_bias.fill_(0.1)
                    follow.what.gates.bias.fill_(1.0)
                    follow.what.expected.bias[1:] = 0.4
            return SQAIRGuide(neural.discovery, follow, world.scene)

        case = make_case(world, guide)
        assert_average_is_the_evidence(weigh(case, 15))


class TestForgetful:
    def test_all_objects_are_new_in_each_frame(self) -> None:
        _, guide = programs(lambda paper: ForgetfulPropagationGuide())
        objects = stack_objects([state.objects for state in guide(video(T, 60))])
        assert objects.num_present.sum() > 200
        for t in range(1, T):
            before = objects.id[:t].amax((0, 2)).unsqueeze(-1)
            assert (objects.id[t] > before)[objects.pres[t] > 0].all()

    def test_weight_of_an_object_that_stays_is_finite(self) -> None:
        """By default this is rare, and its presence adds 13.8 nats."""
        where, what = torch.randn(B, N, 4).double(), torch.randn(B, N, D).double()
        objects = Objects(torch.ones(B, N).double(), where, what, torch.arange(N).expand(B, N))
        follow = ForgetfulPropagationGuide()

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
