# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""NVIL: its expected gradient, by enumeration, is the ELBO's, with baselines and without; and what baselines learn."""

import itertools
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.distributions.score_parts import ScoreParts
from pyro.infer import SVI, TraceGraph_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_sqair.infer import NVIL, NeuralBaseline, nvil, with_baselines
from pyro_sqair.infer.log_weights import log_weights

F64 = torch.float64
X = torch.tensor([0.7, -1.1], dtype=F64)


class Forced(Messenger):
    """Sets discrete draws to given bits and normal ones to loc + scale * given noise, as if sampled."""

    def __init__(self, bits: dict[str, Tensor], noise: dict[str, Tensor]) -> None:
        super().__init__()
        self.bits, self.noise = bits, noise

    def _pyro_sample(self, msg) -> None:
        if msg["done"] or msg["is_observed"]:
            return
        if msg["name"] in self.bits:
            # What Pyro tracks, the draws that this one depends on, comes with a sample.
            msg["value"], msg["done"] = self.bits[msg["name"]] + 0 * msg["fn"].sample(), True
        elif msg["name"] in self.noise:
            msg["value"], msg["done"] = msg["fn"].loc + msg["fn"].scale * self.noise[msg["name"]], True


class MaskedLate(TorchDistribution):
    """A coin whose mask is a draw made after it."""

    arg_constraints: dict = {}

    def __init__(self, base: dist.Bernoulli, holder: dict[str, Tensor]) -> None:
        self.base, self.holder = base, holder
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return MaskedLate(self.base.expand(batch_shape), self.holder)

    def sample(self, sample_shape=()):
        return self.base.sample(torch.Size(sample_shape))

    def log_prob(self, value):
        return torch.where(self.holder["d"] > 0, self.base.log_prob(value), 0.0)

    def score_parts(self, value):
        return ScoreParts(self.log_prob(value), self.base.log_prob(value), 0)


def parameters() -> tuple[Tensor, Tensor]:
    theta = torch.tensor([0.3, -0.4, 0.8, 0.6, -0.5], dtype=F64, requires_grad=True)
    phi = torch.tensor([0.5, -0.3, 0.9, 0.4, 0.7, -0.2, 0.6], dtype=F64, requires_grad=True)
    return theta, phi


def make_pair(theta: Tensor, phi: Tensor) -> tuple[Callable, Callable]:
    """c -> d -> e -> z -> x: c masked late by d, e early by d or blanked, z normal; all see what was before."""

    def guide(x):
        held: dict[str, Tensor] = {}
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", MaskedLate(dist.Bernoulli(logits=phi[0] * x + phi[1]), held))
            held["d"] = d = pyro.sample("d", dist.Bernoulli(logits=phi[2] * c - phi[3] * x))
            with poutine.mask(mask=d.bool()):
                e = pyro.sample("e", dist.Bernoulli(logits=phi[4] * c + phi[5]))
            f = pyro.sample("f", dist.Bernoulli(logits=phi[6] * e + phi[3]).mask(False))
            pyro.sample("z", dist.Normal(phi[1] * f + phi[0] * x, torch.tensor(0.7, dtype=F64)))

    def model(x):
        held: dict[str, Tensor] = {}
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", MaskedLate(dist.Bernoulli(logits=theta[0]), held))
            held["d"] = d = pyro.sample("d", dist.Bernoulli(logits=theta[1]))
            with poutine.mask(mask=d.bool()):
                e = pyro.sample("e", dist.Bernoulli(logits=theta[2]))
            f = pyro.sample("f", dist.Bernoulli(logits=theta[2]).mask(False))
            z = pyro.sample("z", dist.Normal(theta[3] * f, torch.tensor(1.0, dtype=F64)))
            pyro.sample("x", dist.Normal(z + d * c + theta[4] * d * e, torch.tensor(0.9, dtype=F64)), obs=x)

    return model, guide


NAMES = "cdef"
NOISE = {"z": torch.tensor([0.4, -0.9], dtype=F64)}


class Outcomes:
    """All 16 outcomes of each datum's bits, at fixed noise, in the data plate."""

    def __init__(self, x: Tensor) -> None:
        patterns = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=F64)
        self.bits = dict(zip(NAMES, patterns.T.repeat_interleave(len(x), 1), strict=True))
        self.noise = {"z": NOISE["z"][: len(x)].repeat(16)}
        self.x = x.repeat(16)

    def exact_gradient(self) -> tuple[Tensor, Tensor]:
        """Of the ELBO at fixed noise, and the probability of each outcome: no estimator."""
        theta, phi = parameters()
        with Forced(self.bits, self.noise):
            out = log_weights(*make_pair(theta, phi), (self.x,), num_particles=1, max_plate_nesting=1)
        prob = out.score[0].exp()
        grads = torch.autograd.grad((prob * out.log_weight[0]).sum(), (theta, phi))
        return torch.cat(grads), prob.detach()

    def one_by_one(self, elbo: TraceGraph_ELBO, change: Callable = lambda guide, phi: guide) -> Tensor:
        """The expected gradient: a run of one datum for each outcome."""
        theta, phi = parameters()
        _, prob = self.exact_gradient()
        total = torch.zeros(len(theta) + len(phi), dtype=F64)
        for i in range(len(self.x)):
            model, guide = make_pair(theta, phi)
            theta.grad = phi.grad = None
            bits, noise = ({k: v[i : i + 1] for k, v in values.items()} for values in (self.bits, self.noise))
            with Forced(bits, noise):
                elbo.loss_and_grads(model, change(guide, phi), self.x[i : i + 1])
            total -= prob[i] * torch.cat([theta.grad, phi.grad])
        return total

    def at_once(self, elbo: TraceGraph_ELBO) -> Tensor:
        """The expected gradient without baselines, in one run: a scale by the probability weighs the costs."""
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
        """Networks, one of which is told a parameter of the guide itself: it must not reach that parameter."""
        networks = {name: NeuralBaseline(2, [5], scale=3.0).double() for name in ("c", "[def]")}

        def change(guide: Callable, phi: Tensor) -> Callable:
            return with_baselines(guide, networks, lambda x: torch.stack([x, phi[0].expand_as(x)], -1))

        # One datum at a time: then Pyro drops the dimension of the cost, and so must the baseline.
        outcomes = Outcomes(X)
        exact, _ = outcomes.exact_gradient()
        torch.testing.assert_close(outcomes.one_by_one(NVIL(), change), exact, rtol=0, atol=1e-10)
        with pytest.raises(ValueError, match="Expected baseline at site"):
            outcomes.one_by_one(TraceGraph_ELBO(), change)
        assert all((p.grad != 0).any() for n in networks.values() for p in n.parameters())

    def test_with_a_running_mean(self):
        """It is of costs of earlier steps, so any value of it leaves the expectation as it is."""
        torch.set_default_dtype(F64)  # Pyro makes its running mean of the default type
        name = "__baseline_avg_downstream_cost_d"
        outcomes = Outcomes(X[:1])
        exact, _ = outcomes.exact_gradient()

        def change(guide: Callable, phi: Tensor) -> Callable:
            for site in NAMES:  # the same before every outcome
                pyro.get_param_store()[name[:-1] + site] = torch.tensor(-1.7)
            return with_baselines(guide, {"*": None}, decay=0.9)

        torch.testing.assert_close(outcomes.one_by_one(NVIL(), change), exact, rtol=0, atol=1e-10)
        assert pyro.param(name) != -1.7

    @pytest.mark.parametrize("mended", ["c", "f"])
    def test_pyros_own_is_biased_where_masks_are_late_or_blank(self, mended, monkeypatch):
        """Without either mending the expectation is wrong, so the tests above would see it."""
        mend = nvil._mend_score
        monkeypatch.setattr(nvil, "_mend_score", lambda site: mend(site) if site["name"] != mended else None)
        outcomes = Outcomes(X)
        exact, _ = outcomes.exact_gradient()
        assert (outcomes.at_once(NVIL()) - exact).abs().max() > 0.02 * exact.abs().max()


def coin_model(x):
    with pyro.plate("data", len(x)):
        b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.3)))
        pyro.sample("x", dist.Normal(4 * b - 2, 1.0), obs=x)


def coin_guide(x):
    slope, shift = pyro.param("slope", torch.tensor(0.2)), pyro.param("shift", torch.tensor(0.1))
    with pyro.plate("data", len(x)):
        pyro.sample("b", dist.Bernoulli(logits=slope * x + shift))


def coins() -> Tensor:
    bits = (torch.arange(200) % 4 == 0).float()
    return 4 * bits - 2 + torch.randn(200, generator=torch.Generator().manual_seed(3))


class TestBaselines:
    def test_gradient_is_that_of_the_squared_error(self):
        x = coins()
        network = NeuralBaseline(1, [], scale=2.0)
        guide = with_baselines(coin_guide, {"b": network}, lambda x: x[:, None])
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
        # and the guide's, whose signal is the same error
        score = (seen - logits.sigmoid()) * error
        slope, shift = pyro.param("slope"), pyro.param("shift")
        torch.testing.assert_close(slope.grad, -(score * x).sum(), rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(shift.grad, -score.sum(), rtol=1e-4, atol=1e-3)

    def test_they_learn_and_lower_the_variance(self):
        x = coins()
        network = NeuralBaseline(1, [16])
        guide = with_baselines(coin_guide, {"b": network}, lambda x: x[:, None])

        def spread(guide: Callable) -> Tensor:
            gradients = []
            for _ in range(40):
                slope = pyro.param("slope")
                slope.grad = None
                NVIL().loss_and_grads(coin_model, guide, x)
                gradients.append(slope.grad)
            return torch.stack(gradients).var()

        def squared_error() -> float:
            """By the gradient with respect to a number added to the baseline, squared: of its bias."""
            shift = torch.zeros(len(x), requires_grad=True)
            shifted = with_baselines(coin_guide, {"b": lambda y: network(y) + shift}, lambda x: x[:, None])
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

    def test_svi_finds_the_networks_and_learns(self):
        x = coins()
        network = NeuralBaseline(1, [16])
        guide = with_baselines(coin_guide, {"b": network}, lambda x: x[:, None])
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

            def forward(self, x):
                with pyro.plate("data", len(x)):
                    pyro.sample("b", dist.Bernoulli(logits=self.linear(x[:, None])[:, 0]))

        class Model(nn.Module):
            def forward(self, x):
                return coin_model(x)

        objective = NVIL()(Model(), with_baselines(Guess(), {"b": NeuralBaseline(1, [])}, lambda x: x[:, None]))
        assert {name for name, _ in objective.named_parameters()} == {
            "guide.guide.linear.weight",
            "guide.guide.linear.bias",
            "guide.networks.0.layers.0.weight",
            "guide.networks.0.layers.0.bias",
        }
        x = coins()
        pyro.set_rng_seed(0)
        loss = objective(x)
        loss.backward()
        assert all(p.grad is not None and (p.grad != 0).any() for p in objective.parameters())
        pyro.set_rng_seed(0)
        assert NVIL().loss(objective.model, objective.guide, x) == pytest.approx(loss.item(), rel=1e-6)

    def test_several_particles_side_by_side(self):
        """The ELBO's mean, not a tighter bound; the baseline is the same for all particles."""
        x = coins()
        network = NeuralBaseline(1, [16])
        guide = with_baselines(coin_guide, {"b": network}, lambda x: x[:, None])
        one = torch.tensor([NVIL().loss(coin_model, guide, x) for _ in range(100)])
        many = torch.tensor([NVIL(20).loss(coin_model, guide, x) for _ in range(20)])
        error = (one.var() / 100 + many.var() / 20).sqrt()
        assert (one.mean() - many.mean()).abs() < 4 * error
        assert many.var() < 0.3 * one.var()
        elbo = NVIL(20)
        elbo.loss_and_grads(coin_model, guide, x)
        assert all(p.grad.isfinite().all() and (p.grad != 0).any() for p in network.parameters())

    def test_which_sites_get_one(self):
        networks = {"c": NeuralBaseline(1).double(), "*": NeuralBaseline(1).double()}
        guide = with_baselines(make_pair(*parameters())[1], networks, lambda x: x[:, None])
        trace = poutine.trace(guide).get_trace(X)
        options = {name: trace.nodes[name]["infer"].get("baseline", {}) for name in "cdefz"}
        attached = {name: option.get("nn_baseline") for name, option in options.items()}
        assert attached == {"c": networks["c"], "d": networks["*"], "e": networks["*"], "f": networks["*"], "z": None}

    def test_bad_input(self):
        with pytest.raises(ValueError, match="expected `inputs` for the networks"):
            with_baselines(coin_guide, {"b": NeuralBaseline(1)})
        with pytest.raises(ValueError, match=r"expected a decay in \[0, 1\), got 1.0"):
            with_baselines(coin_guide, {"b": None}, decay=1.0)
        with pytest.raises(ValueError, match="num_particles >= 1 for NVIL, got 0"):
            NVIL(0)
        guide = with_baselines(coin_guide, {"b": nn.Linear(1, 1)}, lambda x: x[:, None])
        with pytest.raises(ValueError, match=r"baseline of site 'b' to broadcast .* \[200\], got \[200, 1\]"):
            NVIL().loss_and_grads(coin_model, guide, coins())
