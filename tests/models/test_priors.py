# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Priors that know how things move, against motion written out by hand."""

import math

import pyro
import pytest
import torch
from pyro import poutine
from torch import Tensor

from pyro_sqair.guides import SQAIRGuide, WithVelocity
from pyro_sqair.infer import VIMCO, check_sites
from pyro_sqair.models import SQAIR, BouncingPrior, ConstantVelocityPrior, GuidedWalkPrior, RandomWalkPrior
from pyro_sqair.scene import Objects, SceneConfig
from pyro_sqair.slots import PropagationSlots

D = 2


def scene(where: Tensor) -> Objects:
    """Objects that are all present, from where [B, N, 4]."""
    batch, num, _ = where.shape
    what = torch.linspace(-1, 1, D).expand(batch, num, D).to(where)
    return Objects(torch.ones(batch, num).to(where), where, what, torch.arange(num).expand(batch, num))


def propagate(prior, previous: Objects, memory: Tensor | None, data=None) -> tuple[Tensor, Objects, dict]:
    """One step, with some sites conditioned: the new memory, the objects, and the sites."""

    def program():
        slots = PropagationSlots(previous)
        with pyro.plate("sequences", len(previous.pres), dim=-1):
            memory_ = prior(previous, memory, slots)
        return memory_, slots.objects(previous.id, D, previous.pres)

    trace = poutine.trace(poutine.condition(program, data=data or {})).get_trace()
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


class TestConstantVelocity:
    def test_an_object_goes_on_by_its_velocity(self):
        """Three steps with draws of our choice: every mean is what it should be, and the density is the product."""
        prior = ConstantVelocityPrior(D).double()
        where = torch.randn(4, 1, 4).double()
        memory, velocity = None, torch.zeros(4, 4).double()
        for t in range(3):
            chosen = torch.randn(4, 4).double()
            moved = torch.randn(4, 4).double()
            data = {"prop_0/velocity": chosen, "prop_0/where": moved, "prop_0/pres": torch.ones(4).double()}
            memory, objects, sites = propagate(prior, scene(where), memory, data)
            torch.testing.assert_close(mean_of(sites["prop_0/velocity"]), velocity)
            torch.testing.assert_close(mean_of(sites["prop_0/where"]), where[:, 0] + chosen)
            spread = sites["prop_0/velocity"]["fn"].variance.sqrt()
            raw = prior.first if t == 0 else prior.change
            torch.testing.assert_close(spread, (torch.nn.functional.softplus(raw) + 0.01).expand(4, 4))
            where, velocity = objects.where, chosen
        assert torch.equal(memory[..., 4:], torch.ones(4, 1, 1).double())

    def test_a_new_object_has_no_velocity_yet(self):
        prior = ConstantVelocityPrior(D)
        memory = torch.zeros(3, 2, 5)
        memory[:, 0] = 1.0  # the first is known and moves by 1, the second has just been discovered
        _, _, sites = propagate(prior, scene(torch.zeros(3, 2, 4)), memory)
        assert (mean_of(sites["prop_0/velocity"]) == 1).all()
        assert (mean_of(sites["prop_1/velocity"]) == 0).all()

    def test_absent_objects_cost_nothing(self):
        prior = ConstantVelocityPrior(D)
        previous = scene(torch.zeros(3, 2, 4))
        data = {"prop_0/pres": torch.zeros(3)}
        _, _, sites = propagate(prior, previous, None, data)
        site = sites["prop_0/velocity"]
        assert torch.equal(site["fn"].log_prob(site["value"]), torch.zeros(3))

    def test_guide_without_velocity_is_told_so(self):
        config = SceneConfig(2, D, image_size=(12, 12), glimpse_size=(6, 6))
        model = SQAIR.build(config, 8, propagation=ConstantVelocityPrior(D))
        guide = SQAIRGuide.build(config, 8)
        torch.nn.init.constant_(guide.discovery.pres[-1].bias, 9.0)  # or nobody might be there to propagate
        with pytest.raises(ValueError, match="in the model but not in the guide.*velocity"):
            check_sites(model, guide, torch.rand(3, 2, 1, 12, 12))

    def test_guide_velocity_is_what_where_changed_by(self):
        config = SceneConfig(2, D, image_size=(12, 12), glimpse_size=(6, 6))
        guide = SQAIRGuide.build(config, 8)
        guide.propagation = WithVelocity(guide.propagation)
        torch.nn.init.constant_(guide.discovery.pres[-1].bias, 9.0)
        trace = poutine.trace(guide).get_trace(torch.rand(2, 3, 1, 12, 12))
        states = trace.nodes["_RETURN"]["value"]
        change = trace.nodes["frame_1/prop_1/where"]["value"] - states[0].objects.where[..., 1, :]
        site = trace.nodes["frame_1/prop_1/velocity"]
        torch.testing.assert_close(site["fn"].mean, 0.9 * change)
        model = SQAIR.build(config, 8, propagation=ConstantVelocityPrior(D))
        objective = VIMCO(3)(model, guide)
        objective(torch.rand(3, 2, 1, 12, 12)).backward()
        assert guide.propagation.gain.grad.abs().sum() > 0
        assert model.propagation_prior.change.grad.abs().sum() > 0


class TestBouncing:
    @pytest.mark.parametrize("wall", [0.8, 1.3])
    def test_follows_a_ball_by_reflection(self, wall):
        """A ball bouncing between two walls, also beyond the edge of the frame, where nothing can be seen of it.

        The path is a triangle wave. It is predicted exactly from the third frame on, up to where the centre of a box
        can be: within 0.995 of the frame's half.
        """
        steps, speed = 40, torch.tensor([0.11, -0.07]).double()
        start = torch.tensor([0.213, -0.307]).double()

        def path(t: int) -> Tensor:
            unfolded = (start + speed * t + wall) % (4 * wall)
            return torch.where(unfolded < 2 * wall, unfolded, 4 * wall - unfolded) - wall

        def logits(position: Tensor) -> Tensor:
            shift = position.clamp(-0.995, 0.995).atanh()
            return torch.cat([torch.full((2,), -1.0).double(), shift]).expand(1, 1, 4)

        prior, memory = BouncingPrior(D, wall).double(), None
        visits = 0
        for t in range(1, steps):
            seen = scene(logits(path(t - 1)))
            memory, _, sites = propagate(prior, seen, memory)
            mean = mean_of(sites["prop_0/where"])[0, 2:].tanh()
            expected = path(t - 1) if t == 1 else path(t)
            visits += int((path(t).abs() > 0.995).any())
            torch.testing.assert_close(mean, expected.clamp(-0.995, 0.995), rtol=0, atol=1e-9)
        assert (visits > 0) == (wall > 1)

    def test_believes_a_share_of_a_surprise(self):
        """Known for some frames and expected at 0.1 with velocity 0.05, a ball is seen at 0.3."""
        prior = BouncingPrior(D, 0.9).double()
        prior.gains.data = torch.tensor([0.4, 0.0]).double()
        memory = torch.tensor([-1.0, -1.0, 0.1, 0.1, 0.5, 0.5, 0.05, 0.05, 3.0]).double().expand(1, 1, 9)
        where = torch.tensor([-2.0, -1.0, math.atanh(0.3), math.atanh(0.1)]).double().expand(1, 1, 4)
        after, _, sites = propagate(prior, scene(where), memory)
        alpha, beta = torch.sigmoid(torch.tensor(0.4)).item(), 0.5
        ahead = [0.1 + alpha * 0.2 + 0.05 + beta * 0.2, 0.1 + 0.05]
        mean = mean_of(sites["prop_0/where"])[0]
        torch.testing.assert_close(mean[2:].tanh(), torch.tensor(ahead).double(), rtol=0, atol=1e-6)
        assert mean[0].item() == pytest.approx(-1 + alpha * -1, abs=1e-6)
        assert after[0, 0, -3:].tolist() == pytest.approx([0.05 + beta * 0.2, 0.05, 4.0], abs=1e-6)

    @pytest.mark.parametrize("wall", [0.0, -1.0, float("nan")])
    def test_wall_somewhere(self, wall):
        with pytest.raises(ValueError, match="expected a wall at a distance above 0"):
            BouncingPrior(D, wall)


@pytest.mark.parametrize(
    "prior",
    [lambda: RandomWalkPrior(D, 8), lambda: GuidedWalkPrior(D, 8), lambda: BouncingPrior(D, 1.0)],
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
