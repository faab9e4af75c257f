# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Closed slots contribute zero; latents count only where the object is present."""

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.testing.fakes import NonreparameterizedNormal

from pyro_sqair.scene.presence import GatedPresence, IfPresent

OPEN = torch.tensor([True, False, True, False])
PRES = torch.tensor([1.0, 0.0, 1.0])


class TestGatedPresence:
    @pytest.fixture
    def logits(self):
        return torch.tensor([0.3, 0.3, -1.2, 50.0], dtype=torch.float64, requires_grad=True)

    @pytest.fixture
    def gated(self, logits):
        return GatedPresence(dist.Bernoulli(logits=logits), OPEN)

    @pytest.mark.parametrize("value", [0.0, 1.0])
    def test_log_prob_and_its_gradient(self, gated, logits, value):
        values = torch.full((4,), value, dtype=torch.float64)
        log_prob = gated.log_prob(values)
        assert torch.equal(log_prob[OPEN], gated.base.log_prob(values)[OPEN])
        assert (log_prob[~OPEN] == (0.0 if value == 0 else -torch.inf)).all()
        assert log_prob.dtype == torch.float64
        gated.log_prob(values * OPEN).sum().backward()
        assert (logits.grad[~OPEN] == 0).all()
        assert (logits.grad[OPEN] != 0).all()

    def test_draws(self, gated, logits):
        """Zero without a score where closed; frequencies within 5 standard errors where open."""
        samples = gated.sample(torch.Size([500]))
        assert (samples[:, ~OPEN] == 0).all()
        probability = torch.sigmoid(logits.detach())
        error = (probability * (1 - probability) / 500).sqrt()
        assert ((samples.mean(0) - probability).abs() < 5 * error)[OPEN].all()
        score = gated.score_parts(samples[0]).score_function
        assert (score[~OPEN] == 0).all()
        assert (score[OPEN] != 0).all()

    def test_shapes_broadcast(self):
        assert GatedPresence(dist.Bernoulli(0.5), OPEN).batch_shape == (4,)
        gated = GatedPresence(dist.Bernoulli(torch.full((4,), 0.5)), OPEN.expand(3, 4))
        assert gated.batch_shape == (3, 4)
        gated = gated.expand(torch.Size([2, 3, 4]))
        assert gated.batch_shape == gated.sample().shape == gated.log_prob(torch.zeros(2, 3, 4)).shape == (2, 3, 4)
        assert (gated.sample()[..., ~OPEN] == 0).all()


class TestIfPresent:
    def test_mask_is_applied_after_the_draw(self):
        """Also by an expanded copy, and if it has more dimensions than the draw."""
        base, pres = dist.Normal(torch.zeros(3, 2), 1.0).to_event(1), []
        masked = IfPresent(base, pres)
        expanded = masked.expand(torch.Size([2, 3]))
        value = masked.sample()
        pres.append(PRES.expand(5, 1, 3))
        assert torch.equal(masked.log_prob(value), (base.log_prob(value) * PRES).expand(5, 1, 3))
        assert expanded.batch_shape == expanded.sample().shape[:-1] == (2, 3)
        assert torch.equal(expanded.log_prob(value), (base.log_prob(value) * PRES).expand(5, 2, 3))

    @pytest.mark.parametrize("method", ["log_prob", "score_parts"])
    def test_without_presence_there_is_no_log_prob(self, method):
        masked = IfPresent(dist.Normal(torch.zeros(3), 1.0), [])
        with pytest.raises(ValueError, match="expected the slot to sample 'pres'.*got no 'pres'"):
            getattr(masked, method)(masked.sample())

    @pytest.mark.parametrize("base", [dist.Normal(1.0, 2.0), dist.Poisson(3.0), NonreparameterizedNormal(1.0, 2.0)])
    def test_draws_are_those_of_the_base(self, base):
        masked = IfPresent(base, [])
        assert masked.has_rsample == base.has_rsample
        assert masked.mean == base.mean
        assert masked.support is base.support
        torch.manual_seed(1)
        expected = base.sample((4,))
        torch.manual_seed(1)
        assert torch.equal(masked.sample((4,)), expected)

    def test_gradients(self):
        """They flow through every draw, and through the log-probability only where present."""
        loc = torch.zeros(3, requires_grad=True)
        IfPresent(dist.Normal(loc, 1.0), []).rsample().sum().backward()
        assert torch.equal(loc.grad, torch.ones(3))
        loc.grad = None
        IfPresent(dist.Normal(loc, 1.0), [PRES]).log_prob(torch.ones(3)).sum().backward()
        assert torch.equal(loc.grad, PRES)

    def test_score_parts(self):
        """The score of a draw without reparameterisation is not masked; a reparameterised draw has none."""
        base, value = NonreparameterizedNormal(torch.zeros(3), 1.0), torch.randn(3)
        parts = IfPresent(base, [PRES]).score_parts(value)
        assert torch.equal(parts.score_function, base.log_prob(value))
        assert torch.equal(parts.log_prob, base.log_prob(value) * PRES)
        base = dist.Normal(torch.zeros(3), 1.0)
        parts = IfPresent(base, [PRES]).score_parts(value)
        assert not isinstance(parts.score_function, torch.Tensor)
        assert parts.score_function == 0
        assert torch.equal(parts.entropy_term, base.log_prob(value) * PRES)
