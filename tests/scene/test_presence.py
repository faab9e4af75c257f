# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Closed slots add exactly nothing; what is drawn in a slot counts only where the object turns out present."""

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.testing.fakes import NonreparameterizedNormal

from pyro_sqair.scene.presence import GatedPresence, IfPresent

OPEN = torch.tensor([True, False, True, False])


class TestGatedPresence:
    def logits(self):
        return torch.tensor([0.3, 0.3, -1.2, 50.0], dtype=torch.float64, requires_grad=True)

    def test_log_prob(self):
        base = dist.Bernoulli(logits=self.logits())
        law = GatedPresence(base, OPEN)
        for value in torch.tensor([0.0, 1.0], dtype=torch.float64):
            log_prob = law.log_prob(value.expand(4))
            assert torch.equal(log_prob[OPEN], base.log_prob(value.expand(4))[OPEN])
            assert (log_prob[~OPEN] == (0.0 if value == 0 else -torch.inf)).all()
            assert log_prob.dtype == torch.float64

    @pytest.mark.parametrize("value", [0.0, 1.0])
    def test_closed_slots_have_no_gradient(self, value):
        logits = self.logits()
        law = GatedPresence(dist.Bernoulli(logits=logits), OPEN)
        law.log_prob(torch.full((4,), value).double() * OPEN).sum().backward()
        assert (logits.grad[~OPEN] == 0).all()
        assert (logits.grad[OPEN] != 0).all()

    def test_closed_slots_have_no_score(self):
        law = GatedPresence(dist.Bernoulli(logits=self.logits()), OPEN)
        parts = law.score_parts(law.sample())
        assert (parts.score_function[~OPEN] == 0).all()
        assert (parts.score_function[OPEN] != 0).all()

    def test_no_one_is_present_in_a_closed_slot(self):
        law = GatedPresence(dist.Bernoulli(logits=self.logits()), OPEN)
        samples = law.sample(torch.Size([500]))
        assert (samples[:, ~OPEN] == 0).all()
        probability = torch.sigmoid(self.logits().detach())
        error = (probability * (1 - probability) / 500).sqrt()
        assert ((samples.mean(0) - probability).abs() < 5 * error)[OPEN].all()
        assert torch.equal(law.mean, probability * OPEN)
        assert torch.equal(law.variance, probability * (1 - probability) * OPEN)

    def test_shapes_broadcast(self):
        law = GatedPresence(dist.Bernoulli(0.5), OPEN)
        assert law.batch_shape == (4,)
        law = GatedPresence(dist.Bernoulli(torch.full((4,), 0.5)), OPEN.expand(3, 4))
        assert law.batch_shape == (3, 4)
        law = law.expand(torch.Size([2, 3, 4]))
        assert law.batch_shape == law.sample().shape == law.log_prob(torch.zeros(2, 3, 4)).shape == (2, 3, 4)
        assert (law.sample()[..., ~OPEN] == 0).all()

    def test_enumerated_probabilities_sum_to_one(self):
        law = GatedPresence(dist.Bernoulli(logits=self.logits()), OPEN)
        assert law.has_enumerate_support
        values = law.enumerate_support()
        assert values.shape == (2, 4)
        torch.testing.assert_close(law.log_prob(values).exp().sum(0), torch.ones(4).double())

    def test_a_draw_that_is_not_open_is_impossible(self):
        law = GatedPresence(dist.Bernoulli(0.5), torch.tensor(False))
        assert law.log_prob(torch.tensor(1.0)) == -torch.inf


class TestIfPresent:
    PRES = torch.tensor([1.0, 0.0, 1.0])

    def test_mask_comes_late(self):
        base = dist.Normal(torch.zeros(3, 2), 1.0).to_event(1)
        answer = []
        law = IfPresent(base, answer)
        value = law.sample()
        answer.append(self.PRES)
        expected = base.log_prob(value) * self.PRES
        assert torch.equal(law.log_prob(value), expected)
        assert (law.log_prob(value)[1] == 0).all()

    def test_mask_of_more_dimensions_than_the_draw(self):
        answer = []
        law = IfPresent(dist.Normal(torch.zeros(3), 1.0), answer)
        answer.append(torch.ones(5, 3) * self.PRES)
        assert law.log_prob(torch.zeros(3)).shape == (5, 3)

    @pytest.mark.parametrize("take", [lambda law, x: law.log_prob(x), lambda law, x: law.score_parts(x)])
    def test_without_presence_there_is_no_log_prob(self, take):
        law = IfPresent(dist.Normal(torch.zeros(3), 1.0), [])
        with pytest.raises(ValueError, match="expected the slot to sample 'pres'.*got no 'pres'"):
            take(law, law.sample())

    def test_expanded_copies_share_the_answer(self):
        answer = []
        law = IfPresent(dist.Normal(0.0, 1.0), answer)
        expanded = law.expand(torch.Size([2, 3]))
        answer.append(self.PRES)
        assert expanded.batch_shape == expanded.sample().shape == (2, 3)
        assert (expanded.log_prob(torch.zeros(2, 3))[:, 1] == 0).all()

    @pytest.mark.parametrize("base", [dist.Normal(1.0, 2.0), dist.Poisson(3.0), NonreparameterizedNormal(1.0, 2.0)])
    def test_it_is_drawn_like_its_base(self, base):
        law = IfPresent(base, [])
        assert law.has_rsample == base.has_rsample
        assert law.mean == base.mean
        assert law.variance == base.variance
        assert law.support is base.support
        torch.manual_seed(1)
        expected = base.sample((4,))
        torch.manual_seed(1)
        assert torch.equal(law.sample((4,)), expected)

    def test_gradients_flow_through_a_draw(self):
        loc = torch.zeros(3, requires_grad=True)
        IfPresent(dist.Normal(loc, 1.0), []).rsample().sum().backward()
        assert torch.equal(loc.grad, torch.ones(3))

    def test_no_gradient_of_log_prob_where_absent(self):
        loc = torch.zeros(3, requires_grad=True)
        IfPresent(dist.Normal(loc, 1.0), [self.PRES]).log_prob(torch.ones(3)).sum().backward()
        assert torch.equal(loc.grad, self.PRES)

    def test_score_of_a_draw_without_reparameterisation_is_never_masked(self):
        base = NonreparameterizedNormal(torch.zeros(3), 1.0)
        value = base.sample()
        parts = IfPresent(base, [self.PRES]).score_parts(value)
        assert torch.equal(parts.score_function, base.log_prob(value))
        assert torch.equal(parts.log_prob, base.log_prob(value) * self.PRES)

    def test_score_of_a_reparameterised_draw_is_zero(self):
        base = dist.Normal(torch.zeros(3), 1.0)
        value = base.sample()
        parts = IfPresent(base, [self.PRES]).score_parts(value)
        assert not isinstance(parts.score_function, torch.Tensor)
        assert parts.score_function == 0
        assert torch.equal(parts.entropy_term, base.log_prob(value) * self.PRES)
