# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""VIMCO against the exact gradient of its bound, by enumerating every outcome of the discrete draws.

Two binary draws a particle make 4^K outcomes. Each outcome is an element of the data plate: one run of the
real estimator, with its discrete draws set and its noise fixed, gives the surrogate of all outcomes, which
their probabilities then average. The oracle is written by hand from log sigmoid and the normal density.
"""

import itertools
import math
from collections.abc import Callable
from typing import ClassVar

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.infer import SVI, RenyiELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_sqair.infer import VIMCO
from pyro_sqair.infer.log_weights import log_weights
from pyro_sqair.infer.vimco import control_variate

DATA = torch.tensor([0.7, -1.1], dtype=torch.float64)
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class MaskedLate(TorchDistribution):
    """A normal whose mask is read when its log-probability is taken, after the program has run."""

    arg_constraints: ClassVar[dict] = {}
    has_rsample = True

    def __init__(self, base: dist.Normal, holder: dict[str, Tensor]) -> None:
        self.base_dist, self.holder = base, holder
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return MaskedLate(self.base_dist.expand(batch_shape), self.holder)

    def rsample(self, sample_shape=()):
        return self.base_dist.rsample(torch.Size(sample_shape))

    def log_prob(self, value):
        return self.base_dist.log_prob(value) * self.holder["mask"]


class Forced(Messenger):
    """Sets discrete draws to given bits, normal ones to loc + scale * given noise, as if sampled."""

    def __init__(self, bits: dict[str, Tensor], noise: dict[str, Tensor]) -> None:
        super().__init__()
        self.bits, self.noise = bits, noise

    def _pyro_sample(self, msg) -> None:
        if msg["done"] or msg["is_observed"]:
            return
        if msg["name"] in self.bits:
            msg["value"], msg["done"] = self.bits[msg["name"]], True
        elif msg["name"] in self.noise:
            fn = getattr(msg["fn"], "base_dist", msg["fn"])
            msg["value"], msg["done"] = fn.loc + fn.scale * self.noise[msg["name"]], True


def parameters() -> tuple[Tensor, Tensor]:
    """Parameters (theta of the model, phi of the guide)."""
    theta = torch.tensor([0.3, -0.4, 0.8, 0.6, -0.5, 0.9, 1.2], dtype=torch.float64, requires_grad=True)
    phi = torch.tensor([0.5, 0.1, -0.3, 0.9, 0.4, 0.7, -0.8, 0.6], dtype=torch.float64, requires_grad=True)
    return theta, phi


def make_pair(theta: Tensor, phi: Tensor) -> tuple[Callable, Callable]:
    """z -> b -> v -> c -> w -> x: b, c binary, the rest normal; c is masked by b, v late by c, w by b."""

    def guide(x):
        held: dict[str, Tensor] = {}
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(phi[0] * x + phi[1], phi[2].exp()))
            b = pyro.sample("b", dist.Bernoulli(logits=phi[3] * z + phi[4] * x))
            v = pyro.sample("v", MaskedLate(dist.Normal(phi[5] * z, 0.5 + 0.1 * b), held))
            with poutine.mask(mask=b.bool()):
                c = pyro.sample("c", dist.Bernoulli(logits=phi[6] * b + phi[7] * v))
                pyro.sample("w", dist.Normal(phi[1] * c + phi[5] * v, 1.5))
            held["mask"] = c

    def model(x):
        held: dict[str, Tensor] = {}
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(theta[0], 1.0))
            b = pyro.sample("b", dist.Bernoulli(logits=theta[1] + theta[2] * z))
            v = pyro.sample("v", MaskedLate(dist.Normal(theta[3] * z, 1.0), held))
            with poutine.mask(mask=b.bool()):
                c = pyro.sample("c", dist.Bernoulli(logits=theta[4] + 0.0 * z))
                w = pyro.sample("w", dist.Normal(theta[5] * z, 1.0))
            held["mask"] = c
            pyro.sample("x", dist.Normal(z + theta[6] * b * w + c * v - c, 0.7), obs=x)

    return model, guide


def log_normal(x: Tensor, loc: Tensor | float, scale: Tensor | float) -> Tensor:
    scale = torch.as_tensor(scale, dtype=torch.float64)
    return -0.5 * ((x - loc) / scale) ** 2 - scale.log() - HALF_LOG_2PI


def log_bernoulli(b: Tensor, logits: Tensor) -> Tensor:
    return b * logsigmoid(logits) + (1 - b) * logsigmoid(-logits)


def by_hand(theta: Tensor, phi: Tensor, x: Tensor, b: Tensor, c: Tensor, noise: dict) -> tuple[Tensor, Tensor]:
    """Log weights and log-probability of the bits, both [K, outcomes]; the pair above without Pyro."""
    z = phi[0] * x + phi[1] + phi[2].exp() * noise["z"]
    v = phi[5] * z + (0.5 + 0.1 * b) * noise["v"]
    w = phi[1] * c + phi[5] * v + 1.5 * noise["w"]
    log_b = log_bernoulli(b, phi[3] * z + phi[4] * x)
    log_c = log_bernoulli(c, phi[6] * b + phi[7] * v)
    log_q = log_normal(z, phi[0] * x + phi[1], phi[2].exp()) + log_b
    log_q = log_q + c * log_normal(v, phi[5] * z, 0.5 + 0.1 * b)
    log_q = log_q + b * (log_c + log_normal(w, phi[1] * c + phi[5] * v, 1.5))
    log_p = log_normal(z, theta[0], 1.0) + log_bernoulli(b, theta[1] + theta[2] * z)
    log_p = log_p + c * log_normal(v, theta[3] * z, 1.0)
    log_p = log_p + b * (log_bernoulli(c, theta[4].expand_as(z)) + log_normal(w, theta[5] * z, 1.0))
    log_p = log_p + log_normal(x, z + theta[6] * b * w + c * v - c, 0.7)
    return log_p - log_q, log_b + log_c


class Outcomes:
    """Every outcome of K particles for every datum, laid side by side in the data plate."""

    def __init__(self, num_particles: int) -> None:
        bits = torch.tensor(list(itertools.product((0.0, 1.0), repeat=2 * num_particles)), dtype=torch.float64)
        bits = bits.repeat(len(DATA), 1).T  # [2K, outcomes of datum 0, then of datum 1]
        generator = torch.Generator().manual_seed(1)
        per_datum = {
            name: torch.randn(num_particles, len(DATA), generator=generator, dtype=torch.float64)
            for name in ("z", "v", "w")
        }
        count = 4**num_particles
        self.x = DATA.repeat_interleave(count)
        self.noise = {name: value.repeat_interleave(count, 1) for name, value in per_datum.items()}
        self.b, self.c = bits[:num_particles], bits[num_particles:]
        self.forced = Forced({"b": self.b, "c": self.c}, self.noise)

    def log_weight(self, theta: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Log weights [K, outcomes] and the probability of each outcome [outcomes]."""
        log_w, log_bits = by_hand(theta, phi, self.x, self.b, self.c, self.noise)
        return log_w, log_bits.sum(0).exp()


def exact_gradient(outcomes: Outcomes) -> Tensor:
    theta, phi = parameters()
    log_w, prob = outcomes.log_weight(theta, phi)
    bound = log_w.logsumexp(0) - math.log(len(log_w))
    return torch.cat(torch.autograd.grad((prob * bound).sum(), (theta, phi)))


def expected_gradient(outcomes: Outcomes, surrogate: Callable[[Callable, Callable, Tensor], Tensor]) -> Tensor:
    """The mean over all outcomes of the gradient of a surrogate of shape [outcomes]."""
    theta, phi = parameters()
    with outcomes.forced:
        value = surrogate(*make_pair(theta, phi), outcomes.x)
    _, prob = outcomes.log_weight(theta, phi)
    return torch.cat(torch.autograd.grad((prob.detach() * value).sum(), (theta, phi)))


@pytest.mark.parametrize("kind", ["geometric", "arithmetic"])
@pytest.mark.parametrize("num_particles", [2, 3, 5])
def test_expected_gradient_is_the_exact_gradient_of_the_bound(num_particles, kind):
    outcomes = Outcomes(num_particles)
    exact = exact_gradient(outcomes)
    assert exact.abs().min() > 1e-3  # every parameter is put to the test
    estimator = VIMCO(num_particles, max_plate_nesting=1, control_variate=kind)
    torch.testing.assert_close(expected_gradient(outcomes, estimator.surrogate), exact, rtol=0, atol=1e-10)


@pytest.mark.parametrize("num_particles", [2, 3, 5])
def test_value_is_the_bound(num_particles):
    outcomes = Outcomes(num_particles)
    theta, phi = parameters()
    with outcomes.forced:
        model, guide = make_pair(theta, phi)
        value = VIMCO(num_particles, max_plate_nesting=1).surrogate(model, guide, outcomes.x)
    log_w, prob = outcomes.log_weight(theta, phi)
    torch.testing.assert_close(prob.sum(), torch.tensor(float(len(DATA)), dtype=torch.float64))
    torch.testing.assert_close(value, log_w.logsumexp(0) - math.log(num_particles), rtol=0, atol=1e-12)


def test_loss_of_all_data_together_has_the_exact_gradient():
    """The same through `differentiable_loss`, over all 4^2 x 4^2 joint outcomes of two data, one by one."""
    outcomes = Outcomes(2)
    count = 16
    noise = {name: value[:, ::count] for name, value in outcomes.noise.items()}
    theta, phi = parameters()
    elbo = VIMCO(2, max_plate_nesting=1)
    total = torch.zeros(len(theta) + len(phi), dtype=torch.float64)
    for i, j in itertools.product(range(count), repeat=2):
        b, c = (bits[:, [i, count + j]] for bits in (outcomes.b, outcomes.c))
        with Forced({"b": b, "c": c}, noise):
            loss = elbo.differentiable_loss(*make_pair(theta, phi), DATA)
        prob = by_hand(theta, phi, DATA, b, c, noise)[1].sum().exp().detach()
        total += prob * torch.cat(torch.autograd.grad(loss, (theta, phi)))
    torch.testing.assert_close(-total, exact_gradient(outcomes), rtol=0, atol=1e-10)


def released_signal(model: Callable, guide: Callable, x: Tensor) -> Tensor:
    """log w_k - c_k, averaged over K, as in the released SQAIR code."""
    particles = log_weights(model, guide, (x,), num_particles=3, max_plate_nesting=1)
    signal = particles.log_weight.detach() - control_variate(particles.log_weight)
    return particles.log_weight.logsumexp(0) + (signal * particles.score).mean(0)


def no_score(model: Callable, guide: Callable, x: Tensor) -> Tensor:
    return log_weights(model, guide, (x,), num_particles=3, max_plate_nesting=1).log_weight.logsumexp(0)


def own_weight_in_baseline(model: Callable, guide: Callable, x: Tensor) -> Tensor:
    """A baseline that a particle's own weight enters: L minus the mean of all log weights."""
    particles = log_weights(model, guide, (x,), num_particles=3, max_plate_nesting=1)
    bound = particles.log_weight.logsumexp(0)
    signal = (bound - particles.log_weight.mean(0)).detach()
    return bound + (signal * particles.score).sum(0)


@pytest.mark.parametrize("wrong", [released_signal, no_score, own_weight_in_baseline])
def test_enumeration_catches_wrong_estimators(wrong):
    outcomes = Outcomes(3)
    exact = exact_gradient(outcomes)
    error = (expected_gradient(outcomes, wrong) - exact).abs().max()
    assert error > 0.05 * exact.abs().max()


def test_control_variates_by_loop():
    log_w = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 5
    for k, b in itertools.product(range(4), range(3)):
        others = torch.tensor([log_w[j, b] for j in range(4) if j != k], dtype=torch.float64)
        for kind, guess in (("geometric", others.mean()), ("arithmetic", others.exp().mean().log())):
            swapped = log_w[:, b].clone()
            swapped[k] = guess
            got = control_variate(log_w, kind)[k, b]
            torch.testing.assert_close(got, swapped.exp().mean().log(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["geometric", "arithmetic"])
def test_control_variates_of_extreme_weights(kind):
    log_w = torch.tensor([[1e4], [1e4 - 1], [-1e4], [-math.inf]])
    c = control_variate(log_w, kind)
    assert not c.isnan().any()
    # Whatever the second replaces, the first's weight is the bound's: 1e4 - log 4 and a little.
    torch.testing.assert_close(c[2:], torch.full((2, 1), 1e4 + math.log(1 + math.exp(-1))) - c.new_tensor(
        [[math.log(4 if kind == "geometric" else 3)]] * 2
    ))  # fmt: skip


def test_reparameterised_guide_gets_the_plain_iwae_gradient():
    a = torch.tensor(0.3, requires_grad=True)
    x = torch.tensor([0.5, 1.0, -2.0])

    def model(x):
        with pyro.plate("data", 3):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 3):
            pyro.sample("z", dist.Normal(a * x, 0.9))

    noise = torch.randn(4, 3)
    with Forced({}, {"z": noise}):
        (got,) = torch.autograd.grad(VIMCO(4).differentiable_loss(model, guide, x), a)
    z = a * x + 0.9 * noise
    log_w = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(x) - dist.Normal(a * x, 0.9).log_prob(z)
    (wanted,) = torch.autograd.grad(-log_w.logsumexp(0).sum(), a)
    torch.testing.assert_close(got, wanted)


def coin_model(x):
    p = pyro.param("p", torch.tensor(0.5), constraint=dist.constraints.unit_interval)
    with pyro.plate("data", len(x)):
        b = pyro.sample("b", dist.Bernoulli(p))
        pyro.sample("x", dist.Normal(4 * b - 2, 1.0), obs=x)


def coin_guide(x):
    slope = pyro.param("slope", torch.tensor(0.0))
    shift = pyro.param("shift", torch.tensor(0.0))
    with pyro.plate("data", len(x)):
        pyro.sample("b", dist.Bernoulli(logits=slope * x + shift))


def coins(count: int = 200) -> tuple[Tensor, Tensor]:
    bits = (torch.arange(count) % 4 == 0).float()  # a quarter are heads
    return bits, 4 * bits - 2 + torch.randn(count, generator=torch.Generator().manual_seed(3))


def coin_evidence(x: Tensor, p: Tensor) -> float:
    """log p(x) of all data, b summed out."""
    heads = p.log() + dist.Normal(2.0, 1.0).log_prob(x)
    tails = (1 - p).log() + dist.Normal(-2.0, 1.0).log_prob(x)
    return torch.logaddexp(heads, tails).sum().item()


def test_svi_learns_a_discrete_guide():
    bits, x = coins()
    svi = SVI(coin_model, coin_guide, pyro.optim.Adam({"lr": 0.1}), VIMCO(5))
    losses = [svi.step(x) for _ in range(150)]
    assert isinstance(losses[0], float)
    evidence = coin_evidence(x, pyro.param("p").detach())
    assert sum(losses[:3]) / 3 > 30 - evidence
    assert -2 < sum(losses[-10:]) / 10 + evidence < 10  # the bound's gap, for 200 data
    # The posterior's log-odds are 4 x + logit(p). Its maximum-likelihood p is near the share of heads.
    assert abs(pyro.param("p").item() - 0.25) < 0.08
    guessed = pyro.param("slope") * x + pyro.param("shift") > 0
    assert (guessed == bits.bool()).float().mean() > 0.95


def test_pyro_renyi_elbo_gives_a_discrete_guide_no_gradient_and_vimco_does():
    """The negative control: Pyro's IWAE (its issue 3289)."""
    _, x = coins()
    for elbo in (RenyiELBO(alpha=0, num_particles=5, vectorize_particles=True), VIMCO(5)):
        pyro.clear_param_store()
        elbo.loss_and_grads(coin_model, coin_guide, x)
        assert pyro.param("p").unconstrained().grad.abs() > 1
        grad = pyro.param("slope").grad
        learns = grad is not None and grad.abs().item() > 1
        assert learns == isinstance(elbo, VIMCO)


def test_module_learns_with_a_torch_optimiser():
    class Coin(pyro.nn.PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.logit = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x):
            with pyro.plate("data", len(x)):
                b = pyro.sample("b", dist.Bernoulli(logits=self.logit))
                pyro.sample("x", dist.Normal(4 * b - 2, 1.0), obs=x)

    class Guess(pyro.nn.PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(1, 1)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("b", dist.Bernoulli(logits=self.linear(x[:, None])[:, 0]))

    _, x = coins()
    model = Coin()
    elbo = VIMCO(5)(model, Guess())
    assert {name for name, _ in elbo.named_parameters()} == {
        "model.logit",
        "guide.linear.weight",
        "guide.linear.bias",
    }
    optimiser = torch.optim.Adam(elbo.parameters(), lr=0.1)
    losses = []
    for _ in range(100):
        optimiser.zero_grad()
        loss = elbo(x)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    evidence = coin_evidence(x, model.logit.sigmoid().detach())
    assert sum(losses[:3]) / 3 > 30 - evidence
    assert -2 < sum(losses[-10:]) / 10 + evidence < 10


def test_loss_needs_no_gradients_and_agrees():
    _, x = coins()
    elbo = VIMCO(5)
    elbo.loss(coin_model, coin_guide, x)  # guesses the plates, makes the parameters
    pyro.set_rng_seed(0)
    number = elbo.loss(coin_model, coin_guide, x)
    pyro.set_rng_seed(0)
    tensor = elbo.loss_and_grads(coin_model, coin_guide, x)
    assert isinstance(number, float)
    assert not tensor.requires_grad
    assert number == pytest.approx(tensor.item(), rel=1e-6)
    assert SVI(coin_model, coin_guide, pyro.optim.Adam({}), elbo).evaluate_loss(x) > 0


class NoHostReads(TorchDispatchMode):
    """Raises where a tensor's value is read by Python, which on a GPU would wait for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            raise AssertionError("a tensor was read")
        return func(*args, **(kwargs or {}))


def test_no_host_reads_on_the_hot_path():
    outcomes = Outcomes(2)
    theta, phi = parameters()
    model, guide = make_pair(theta, phi)
    with pyro.validation_enabled(False):
        with NoHostReads(), outcomes.forced:
            VIMCO(2).differentiable_loss(model, guide, outcomes.x).backward()
        with NoHostReads(), pytest.raises(AssertionError, match="was read"):
            theta.sum().item()
    assert (phi.grad != 0).all()


@pytest.mark.parametrize("num_particles", [0, 1])
def test_one_particle_has_no_baseline(num_particles):
    with pytest.raises(ValueError, match=f"num_particles >= 2 .* got {num_particles}"):
        VIMCO(num_particles)


def test_unknown_control_variate():
    with pytest.raises(ValueError, match="'geometric', 'arithmetic'.* got 'harmonic'"):
        VIMCO(2, control_variate="harmonic")
