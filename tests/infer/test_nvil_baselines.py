# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The baselines of NVIL: their gradient, that they are trained, and that they lower the variance."""

from collections.abc import Callable
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from enumeration import Forced
from pyro.infer import SVI
from torch import Tensor, nn

from pyro_sqair.infer import NVIL, NeuralBaseline


def coin_model(x):
    with pyro.plate("data", len(x)):
        b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.3)))
        pyro.sample("x", dist.Normal(4 * b - 2, 1.0), obs=x)


def coin_guide(x, network=None):
    if isinstance(network, nn.Module):
        pyro.module("baseline", network)
    infer = {"baseline": {"nn_baseline": network, "nn_baseline_input": x[:, None]}} if network else {}
    slope, shift = pyro.param("slope", torch.tensor(0.2)), pyro.param("shift", torch.tensor(0.1))
    with pyro.plate("data", len(x)):
        pyro.sample("b", dist.Bernoulli(logits=slope * x + shift), infer=infer)


def coins() -> Tensor:
    bits = (torch.arange(200) % 4 == 0).float()
    return 4 * bits - 2 + torch.randn(200, generator=torch.Generator().manual_seed(3))


class TestBaselines:
    def test_gradient_is_that_of_the_squared_error(self):
        x = coins()
        network = NeuralBaseline(1, [], scale=2.0)
        guide = partial(coin_guide, network=network)
        seen = dist.Bernoulli(0.4).sample((200,))
        with Forced({"b": seen}, {}):
            NVIL().loss_and_grads(coin_model, guide, x)
        logits = 0.2 * x + 0.1
        cost = dist.Bernoulli(0.3).log_prob(seen) + dist.Normal(4 * seen - 2, 1.0).log_prob(x)
        cost = cost - dist.Bernoulli(logits=logits).log_prob(seen)
        error = cost - network(x[:, None]).detach()
        linear = network.layers[0]
        torch.testing.assert_close(linear.bias.grad, -2 * 2 * error.sum().unsqueeze(0), rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(linear.weight.grad, -4 * (error * x).sum().reshape(1, 1), rtol=1e-5, atol=1e-3)
        # the signal of the guide is the same error
        score = (seen - logits.sigmoid()) * error
        slope, shift = pyro.param("slope"), pyro.param("shift")
        torch.testing.assert_close(slope.grad, -(score * x).sum(), rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(shift.grad, -score.sum(), rtol=1e-4, atol=1e-3)

    def test_they_are_trained_and_lower_the_variance(self):
        x = coins()
        network = NeuralBaseline(1, [16])
        guide = partial(coin_guide, network=network)

        def spread(guide: Callable) -> Tensor:
            gradients = []
            for _ in range(40):
                slope = pyro.param("slope")
                slope.grad = None
                NVIL().loss_and_grads(coin_model, guide, x)
                gradients.append(slope.grad)
            return torch.stack(gradients).var()

        def squared_error() -> float:
            """Mean squared bias of the baseline, from the gradient with respect to a number added to it."""
            shift = torch.zeros(len(x), requires_grad=True)
            shifted = partial(coin_guide, network=lambda y: network(y) + shift)
            loss = sum(NVIL().differentiable_loss(coin_model, shifted, x) for _ in range(30)) / 30
            (grad,) = torch.autograd.grad(loss, shift)
            return (grad / 2).square().mean().item()

        coin_guide(x)
        plain, first = spread(coin_guide), squared_error()
        optimiser = torch.optim.Adam(network.parameters(), 0.05)
        for _ in range(100):
            optimiser.zero_grad()
            NVIL().differentiable_loss(coin_model, guide, x).backward()
            optimiser.step()
        assert squared_error() < 0.2 * first
        assert spread(guide) < 0.5 * plain

    def test_svi_trains_the_networks(self):
        x = coins()
        network = NeuralBaseline(1, [16])
        guide = partial(coin_guide, network=network)
        before = [p.clone() for p in network.parameters()]
        svi = SVI(coin_model, guide, pyro.optim.Adam({"lr": 0.05}), NVIL())
        losses = [svi.step(x) for _ in range(100)]
        assert all((p != b).any() for p, b in zip(network.parameters(), before, strict=True))
        evidence = torch.logaddexp(
            torch.tensor(0.3).log() + dist.Normal(2.0, 1.0).log_prob(x),
            torch.tensor(0.7).log() + dist.Normal(-2.0, 1.0).log_prob(x),
        ).sum()
        assert losses[0] > -evidence + 30
        assert -10 < sum(losses[-10:]) / 10 + evidence < 15
        heads = pyro.param("slope") * x + pyro.param("shift") > 0
        assert (heads == (torch.arange(200) % 4 == 0)).float().mean() > 0.9

    def test_module_for_a_torch_optimiser(self):
        class Guess(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = nn.Linear(1, 1)
                self.baseline = NeuralBaseline(1, [])

            def forward(self, x):
                infer = {"baseline": {"nn_baseline": self.baseline, "nn_baseline_input": x[:, None]}}
                with pyro.plate("data", len(x)):
                    pyro.sample("b", dist.Bernoulli(logits=self.linear(x[:, None])[:, 0]), infer=infer)

        class Model(nn.Module):
            def forward(self, x):
                return coin_model(x)

        objective = NVIL()(Model(), Guess())
        x = coins()
        pyro.set_rng_seed(0)
        loss = objective(x)
        loss.backward()
        assert all(p.grad is not None and (p.grad != 0).any() for p in objective.parameters())
        pyro.set_rng_seed(0)
        assert NVIL().loss(objective.model, objective.guide, x) == pytest.approx(loss.item(), rel=1e-6)

    def test_several_particles_side_by_side(self):
        """More particles average the ELBO; they do not make the bound tighter."""
        x = coins()
        network = NeuralBaseline(1, [16])
        guide = partial(coin_guide, network=network)
        one = torch.tensor([NVIL().loss(coin_model, guide, x) for _ in range(100)])
        many = torch.tensor([NVIL(20).loss(coin_model, guide, x) for _ in range(20)])
        error = (one.var() / 100 + many.var() / 20).sqrt()
        assert (one.mean() - many.mean()).abs() < 4 * error
        assert many.var() < 0.3 * one.var()
        elbo = NVIL(20)
        elbo.loss_and_grads(coin_model, guide, x)
        assert all(p.grad.isfinite().all() and (p.grad != 0).any() for p in network.parameters())

    def test_bad_input(self):
        with pytest.raises(ValueError, match="num_particles >= 1 for NVIL, got 0"):
            NVIL(0)
        with pytest.raises(ValueError, match=r"baseline of site 'b' to broadcast .* \[200\], got \[200, 1\]"):
            NVIL().loss_and_grads(coin_model, partial(coin_guide, network=nn.Linear(1, 1)), coins())
