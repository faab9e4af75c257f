# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The released code's signal on the toy by which the project's design tells it from VIMCO."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from enumeration import Outcomes, Parameters, Values, Weighed, leaf, log_bernoulli
from torch import Tensor

from pyro_sqair.infer import OVIS, VIMCO, ReleasedSQAIRSignal


class Coin:
    """q(b = 1) = sigmoid(0.4), and the joint probabilities p(x, b) at x = 1 are 0.1 for b = 1 and 0.6 for b = 0.

    With three particles the bound's gradient by the logit is -0.2743, to which only these two numbers lead.
    """

    data = torch.ones(1, dtype=torch.float64)
    num_bits, num_noise = 1, 0
    prior, likelihood = 0.25, (0.8, 0.4)

    def parameters(self) -> Parameters:
        return (leaf(0.4),)

    def programs(self, parameters: Parameters) -> tuple[Callable, Callable]:
        (logit,) = parameters

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("b", dist.Bernoulli(logits=logit))

        def model(x):
            heads = torch.tensor(self.likelihood, dtype=torch.float64)
            with pyro.plate("data", len(x)):
                b = pyro.sample("b", dist.Bernoulli(torch.tensor(self.prior, dtype=torch.float64)))
                pyro.sample("x", dist.Bernoulli(heads[b.long()]), obs=x)

        return model, guide

    def layout(self, bits: Tensor, noise: Tensor) -> tuple[Values, Values]:
        return {"b": bits[0]}, {}

    def by_hand(self, parameters: Parameters, x: Tensor, bits: Tensor, noise: Tensor, cut: Callable) -> Weighed:
        (b,) = bits
        log_q = log_bernoulli(b, *parameters)
        joint = torch.tensor([0.6, 0.1], dtype=torch.float64)
        return Weighed(joint.log()[b.long()], log_q, log_q, log_q)


@pytest.mark.parametrize(
    ("estimator", "gradient"), [(VIMCO(3), -0.2743), (OVIS(3), -0.2743), (ReleasedSQAIRSignal(3), -0.2366)]
)
def test_coin(estimator, gradient):
    outcomes = Outcomes(Coin(), 3)
    assert outcomes.exact_gradient().item() == pytest.approx(-0.2743, abs=5e-5)
    assert outcomes.estimated_gradient(estimator.surrogate).item() == pytest.approx(gradient, abs=5e-5)


def test_signal_by_loop():
    """The learning signal of the released code's VIMCO, and its mean over particles."""
    log_w = torch.randn(4, 3, dtype=torch.float64)
    got = ReleasedSQAIRSignal(4).score_signal(log_w)
    for k in range(4):
        swapped = log_w.clone()
        swapped[k] = (log_w.sum(0) - log_w[k]) / 3
        torch.testing.assert_close(got[k], (log_w[k] - swapped.exp().mean(0).log()) / 4)
