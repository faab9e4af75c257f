# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""NVIL: its expected gradient is that of the ELBO, by enumeration; its baselines are trained and lower the variance."""

import itertools
from collections.abc import Callable
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from enumeration import Forced, MaskedLate
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.infer import TraceGraph_ELBO
from torch import Tensor, nn

from pyro_sqair.infer import NVIL, NeuralBaseline, nvil
from pyro_sqair.infer.log_weights import log_weights

F64 = torch.float64
X = torch.tensor([0.7, -1.1], dtype=F64)


def parameters() -> tuple[Tensor, Tensor]:
    theta = torch.tensor([0.3, -0.4, 0.8, 0.6, -0.5], dtype=F64, requires_grad=True)
    phi = torch.tensor([0.5, -0.3, 0.9, 0.4, 0.7, -0.2, 0.6], dtype=F64, requires_grad=True)
    return theta, phi


Infer = Callable[[str, Tensor, Tensor], dict]  # (name of a discrete site, data, phi) to its `infer`


def no_baseline(name: str, x: Tensor, phi: Tensor) -> dict:
    return {}


def make_pair(theta: Tensor, phi: Tensor, infer: Infer = no_baseline) -> tuple[Callable, Callable]:
    """c -> d -> e -> f -> z -> x. The later draw d masks c and e; f is masked by `.mask(False)`; z is normal."""

    def guide(x):
        held: dict[str, Tensor] = {}

        def draw(name: str, distribution: TorchDistribution) -> Tensor:
            return pyro.sample(name, distribution, infer=infer(name, x, phi))

        with pyro.plate("data", len(x)):
            c = draw("c", MaskedLate(dist.Bernoulli(logits=phi[0] * x + phi[1]), held))
            held["mask"] = d = draw("d", dist.Bernoulli(logits=phi[2] * c - phi[3] * x))
            with poutine.mask(mask=d.bool()):
                e = draw("e", dist.Bernoulli(logits=phi[4] * c + phi[5]))
            f = draw("f", dist.Bernoulli(logits=phi[6] * e + phi[3]).mask(False))
            pyro.sample("z", dist.Normal(phi[1] * f + phi[0] * x, torch.tensor(0.7, dtype=F64)))

    def model(x):
        held: dict[str, Tensor] = {}
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", MaskedLate(dist.Bernoulli(logits=theta[0]), held))
            held["mask"] = d = pyro.sample("d", dist.Bernoulli(logits=theta[1]))
            with poutine.mask(mask=d.bool()):
                e = pyro.sample("e", dist.Bernoulli(logits=theta[2]))
            f = pyro.sample("f", dist.Bernoulli(logits=theta[2]).mask(False))
            z = pyro.sample("z", dist.Normal(theta[3] * f, torch.tensor(1.0, dtype=F64)))
            pyro.sample("x", dist.Normal(z + d * c + theta[4] * d * e, torch.tensor(0.9, dtype=F64)), obs=x)

    return model, guide


NAMES = "cdef"
NOISE = {"z": torch.tensor([0.4, -0.9], dtype=F64)}


class Outcomes:
    """All 16 outcomes of the discrete draws of each datum, at fixed noise, in the data plate."""

    def __init__(self, x: Tensor) -> None:
        patterns = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=F64)
        self.bits = dict(zip(NAMES, patterns.T.repeat_interleave(len(x), 1), strict=True))
        self.noise = {"z": NOISE["z"][: len(x)].repeat(16)}
        self.x = x.repeat(16)

    def exact_gradient(self) -> tuple[Tensor, Tensor]:
        """The gradient of the ELBO at fixed noise, without an estimator, and the probability of each outcome."""
        theta, phi = parameters()
        with Forced(self.bits, self.noise):
            out = log_weights(*make_pair(theta, phi), (self.x,), num_particles=1, max_plate_nesting=1)
        prob = out.score[0].exp()
        grads = torch.autograd.grad((prob * out.log_weight[0]).sum(), (theta, phi))
        return torch.cat(grads), prob.detach()

    def one_by_one(self, elbo: TraceGraph_ELBO, infer: Infer = no_baseline) -> Tensor:
        """The expected gradient, from one run with one datum for each outcome."""
        theta, phi = parameters()
        _, prob = self.exact_gradient()
        total = torch.zeros(len(theta) + len(phi), dtype=F64)
        for i in range(len(self.x)):
            theta.grad = phi.grad = None
            bits, noise = ({k: v[i : i + 1] for k, v in values.items()} for values in (self.bits, self.noise))
            with Forced(bits, noise):
                elbo.loss_and_grads(*make_pair(theta, phi, infer), self.x[i : i + 1])
            total -= prob[i] * torch.cat([theta.grad, phi.grad])
        return total

    def at_once(self, elbo: TraceGraph_ELBO) -> Tensor:
        """The expected gradient without baselines, from one run whose costs are scaled by the probabilities."""
        theta, phi = parameters()
        _, prob = self.exact_gradient()
        with Forced(self.bits, self.noise):
            pair = (poutine.scale(program, scale=prob) for program in make_pair(theta, phi))
            loss = elbo.differentiable_loss(*pair, self.x)
        return -torch.cat(torch.autograd.grad(loss, (theta, phi)))


class TestExpectation:
    def test_without_baselines(self):
        outcomes = Outcomes(X)
        exact, prob = outcomes.exact_gradient()
        torch.testing.assert_close(prob.sum(), torch.tensor(2.0, dtype=F64))
        assert exact.abs().min() > 1e-3
        torch.testing.assert_close(outcomes.at_once(NVIL()), exact, rtol=0, atol=1e-10)
        torch.testing.assert_close(outcomes.one_by_one(NVIL()), exact, rtol=0, atol=1e-10)

    def test_with_baselines(self):
        """A network may read a parameter of the guide, but does not change its gradient."""
        networks = {name: NeuralBaseline(2, [5], scale=3.0).double() for name in NAMES}

        def infer(name: str, x: Tensor, phi: Tensor) -> dict:
            features = torch.stack([x, phi[0].expand_as(x)], -1)
            return {"baseline": {"nn_baseline": networks[name], "nn_baseline_input": features}}

        # With a single datum, Pyro drops the batch dimension of the cost, and NVIL that of the baseline.
        outcomes = Outcomes(X)
        exact, _ = outcomes.exact_gradient()
        torch.testing.assert_close(outcomes.one_by_one(NVIL(), infer), exact, rtol=0, atol=1e-10)
        with pytest.raises(ValueError, match="Expected baseline at site"):
            outcomes.one_by_one(TraceGraph_ELBO(), infer)
        assert all((p.grad != 0).any() for n in networks.values() for p in n.parameters())

    def test_with_a_running_mean(self):
        """Pyro's running mean is that of earlier steps, so no value of it changes the expectation."""
        torch.set_default_dtype(F64)  # Pyro creates the running mean with the default type
        outcomes = Outcomes(X[:1])
        exact, _ = outcomes.exact_gradient()

        def infer(name: str, x: Tensor, phi: Tensor) -> dict:
            pyro.get_param_store()[f"__baseline_avg_downstream_cost_{name}"] = torch.tensor(-1.7)
            return {"baseline": {"use_decaying_avg_baseline": True}}

        torch.testing.assert_close(outcomes.one_by_one(NVIL(), infer), exact, rtol=0, atol=1e-10)
        assert pyro.param("__baseline_avg_downstream_cost_d") != -1.7

    @pytest.mark.parametrize("site", ["c", "f"])
    def test_without_the_correction_masked_draws_bias_the_gradient(self, site, monkeypatch):
        """So the tests above fail if NVIL, like Pyro, does not correct the score of this site."""
        correct = nvil._correct_score
        monkeypatch.setattr(nvil, "_correct_score", lambda s: correct(s) if s["name"] != site else None)
        outcomes = Outcomes(X)
        exact, _ = outcomes.exact_gradient()
        assert (outcomes.at_once(NVIL()) - exact).abs().max() > 0.02 * exact.abs().max()


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

    def test_particles_average_the_elbo(self):
        """They do not make the bound tighter."""
        x = coins()
        coin_guide(x)
        pyro.set_rng_seed(1)
        log_weight = log_weights(coin_model, coin_guide, (x,), num_particles=20, max_plate_nesting=1).log_weight
        pyro.set_rng_seed(1)
        loss = NVIL(20, max_plate_nesting=1).loss(coin_model, coin_guide, x)
        assert loss == pytest.approx(-log_weight.mean(0).sum().item(), rel=1e-6)

    def test_bad_input(self):
        with pytest.raises(ValueError, match="num_particles >= 1 for NVIL, got 0"):
            NVIL(0)
        with pytest.raises(ValueError, match=r"baseline of site 'b' to broadcast .* \[200\], got \[200, 1\]"):
            NVIL().loss_and_grads(coin_model, partial(coin_guide, network=nn.Linear(1, 1)), coins())
