# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The discovery prior: a truncated categorical count, factorised over slots, and the prior of `where`."""

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_sqair.experiments import AIRSystem, SQAIRSystem
from pyro_sqair.models import (
    AutoregressiveWhere,
    CategoricalCount,
    DiscoveryPrior,
    SizedWhere,
)
from pyro_sqair.models.discovery import presence_logits
from pyro_sqair.nn.networks import SetEncoder
from pyro_sqair.scene.objects import Objects, SceneConfig
from pyro_sqair.scene.slots import DiscoverySlots

N, D = 4, 2


def propagated(number: Tensor) -> Objects:
    """Objects in scenes with the given numbers of objects, dtype float64."""
    pres = (torch.arange(N) < number.unsqueeze(-1)).double()
    where, what = (torch.randn(*pres.shape, size).double() * pres.unsqueeze(-1) for size in (4, D))
    return Objects(pres, where, what, torch.where(pres > 0, torch.arange(N), -1))


def log_prob_of_count(logits: Tensor, count: int, room: int) -> Tensor:
    """The log-probability that the first `count` slots are filled and, if there is room, the next is not."""
    total = logsigmoid(logits[..., :count]).sum(-1)
    return total + logsigmoid(-logits[..., count]) if count < room else total


def test_count_prior_for_another_number_of_slots():
    prior = DiscoveryPrior(SceneConfig(N + 1, D), SetEncoder(D, 4)).double()
    scene = propagated(torch.zeros(2, dtype=torch.int64))
    with pytest.raises(
        ValueError, match="expected a count prior over 0 ... 4, the number of slots, got one over 0 ... 5"
    ):
        prior(scene, DiscoverySlots(scene), True)


class TestPresenceLogits:
    @pytest.mark.parametrize("spread", [0.1, 1.0, 10.0])
    @pytest.mark.parametrize("offset", [0.0, 300.0, -300.0])
    def test_equals_truncated_categorical(self, spread, offset):
        """Exact for every count and room, and invariant to a constant added to all logits."""
        self.check((spread * torch.randn(50, N + 1) + offset).double(), rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("cost", [5.0, 40.0, 150.0])
    def test_large_costs(self, cost):
        self.check(-cost * torch.arange(N + 1).double().expand(2, -1), rtol=1e-7, atol=1e-7)

    def check(self, count_logits: Tensor, **tolerance: float) -> None:
        for room in range(N + 1):
            logits = presence_logits(count_logits, torch.full((len(count_logits),), float(room)))
            assert logits.shape == (len(count_logits), N)
            assert (torch.sigmoid(logits[:, room:]) < 1e-30).all()  # closed slots are empty
            expected = count_logits[:, : room + 1].log_softmax(-1)
            for count in range(room + 1):
                torch.testing.assert_close(log_prob_of_count(logits, count, room), expected[:, count], **tolerance)

    def test_batch_shapes(self):
        room = torch.tensor([[0.0, 1, 2], [3, 4, 4]])
        for shape in [(), (3,), (2, 3), (5, 2, 3)]:
            count_logits = torch.randn(*shape, N + 1)
            logits = presence_logits(count_logits, room)
            assert logits.shape == (*torch.broadcast_shapes(shape, room.shape), N)
            single = presence_logits(count_logits.expand(*logits.shape[:-1], N + 1)[..., 1, 0, :], torch.tensor(3.0))
            torch.testing.assert_close(logits[..., 1, 0, :], single)

    def test_gradients(self):
        count_logits = torch.randn(N + 1, dtype=torch.float64, requires_grad=True)
        for room in range(N + 1):
            assert torch.autograd.gradcheck(lambda c, r=room: presence_logits(c, torch.tensor(float(r))), count_logits)


def test_categorical_count():
    count, scene = CategoricalCount(N).double(), propagated(torch.tensor([0, 2, 4]))
    torch.nn.init.normal_(count.bias)
    hidden = count.mlp(torch.tensor([[0.0], [0.5], [1.0]]).double()) + count.bias
    torch.testing.assert_close(count(scene, True), torch.nn.functional.elu(hidden))
    later = torch.tensor([10.0] + [0.0] * N).double()
    torch.testing.assert_close(count(scene, False), torch.nn.functional.elu(hidden + later))


def test_initial_count_prior_favours_no_discovery_after_the_first_frame():
    count = CategoricalCount(N)
    assert (count.bias == 0).all()
    assert count.later.tolist() == [10.0] + [0.0] * N


class TestWhere:
    def test_initial_distribution(self):
        """It does not depend on the context or on the slots before."""
        prior = AutoregressiveWhere(7)
        context, where, state = prior.context(3 * torch.randn(20, 7)), prior.initial_where, prior.initial_state
        for _ in range(3):
            p, state = prior(context, where, state)
            assert p.event_shape == (4,)
            torch.testing.assert_close(p.mean, torch.tensor([-2.0, -2, 0, 0]).expand(20, 4))
            torch.testing.assert_close(p.stddev, torch.ones(20, 4))
            where = 3 * torch.randn(20, 4)

    def test_depends_on_context_and_on_the_slots_before(self):
        prior = AutoregressiveWhere(7)
        for parameter in prior.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        context, where, state = torch.randn(7), torch.randn(4), torch.zeros(4)

        def mean(context, where, state):
            p, new = prior(prior.context(context), where, state)
            return p.mean, new

        loc, new = mean(context, where, state)
        assert not torch.equal(loc, mean(torch.randn(7), where, state)[0])
        assert not torch.equal(loc, mean(context, torch.randn(4), state)[0])
        assert not torch.equal(loc, mean(context, where, new)[0])


class TestSizedWhere:
    def test_scale_logits_are_fixed_and_the_shift_is_learned(self):
        free, sized = AutoregressiveWhere(7), SizedWhere(7, (-1.5, -0.5, 0.0, 0.0), std=0.1)
        for parameter in free.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        sized.load_state_dict(free.state_dict())
        context, where, state = torch.randn(20, 7), torch.randn(20, 4), torch.randn(20, 4)
        (p, new), (expected, same) = (prior(prior.context(context), where, state) for prior in (sized, free))
        assert torch.equal(new, same)
        torch.testing.assert_close(p.mean[..., :2], torch.tensor([-1.5, -0.5]).expand(20, 2))
        torch.testing.assert_close(p.stddev[..., :2], torch.full((20, 2), 0.1))
        assert torch.equal(p.mean[..., 2:], expected.mean[..., 2:])
        assert torch.equal(p.stddev[..., 2:], expected.stddev[..., 2:])
        prior = SizedWhere(7, (-1.5, -0.5, 0.0, 0.0), std=0.1)  # its initial mean is in the middle of the image
        p, _ = prior(prior.context(torch.randn(7)), prior.initial_where, prior.initial_state)
        torch.testing.assert_close(p.mean, torch.tensor([-1.5, -0.5, 0.0, 0.0]))

    @pytest.mark.parametrize("system", [SQAIRSystem(8), AIRSystem(8)])
    def test_is_the_prior_if_the_object_size_is_known(self, system):
        scene = SceneConfig(N, D, image_size=(12, 16), glimpse_size=(4, 4), object_size=(3, 4), object_size_std=0.2)
        prior = system.programs(scene)[0].discovery_prior.where
        assert isinstance(prior, SizedWhere) and prior.std == 0.2
        torch.testing.assert_close(prior.size.sigmoid(), torch.tensor([0.25, 0.25]))
        learned = system.programs(dataclasses.replace(scene, object_size=None))[0].discovery_prior.where
        assert not isinstance(learned, SizedWhere)
