# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Bounds for evaluation, compared with exact values."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.poutine.messenger import Messenger
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from pyro_sqair.infer import Bounds, DatumEstimate, evaluate_bounds, mean_over_data
from pyro_sqair.infer.bounds import effective_sample_size

X = torch.tensor([0.3, -1.5], dtype=torch.float64)
PRIOR, GUESS = 0.3, torch.tensor([0.6, 0.4], dtype=torch.float64)


def normal_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def normal_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.7 * x, 0.6))


def coin_model(x):
    with pyro.plate("data", len(x)):
        b = pyro.sample("b", dist.Bernoulli(x.new_tensor(PRIOR)))
        pyro.sample("x", dist.Normal(2 * b - 1, x.new_ones(())), obs=x)


def coin_guide(x):
    """For any number of repetitions of X."""
    with pyro.plate("data", len(x)):
        pyro.sample("b", dist.Bernoulli(GUESS.repeat(len(x) // len(X))))


def coin_terms() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """log p(x | b) [2, data], log p(b) [2, 1], log q(b) [2, data]; the first axis is b."""
    mean = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    likelihood = -0.5 * (X - mean) ** 2 - 0.5 * math.log(2 * math.pi)
    prior = torch.tensor([[1 - PRIOR], [PRIOR]], dtype=torch.float64).log()
    return likelihood, prior, torch.stack((1 - GUESS, GUESS)).log()


def test_iwae_bound_tends_to_the_evidence_from_below():
    likelihood, prior, log_q = coin_terms()
    log_w = likelihood + prior - log_q
    evidence = (likelihood + prior).logsumexp(0)
    gaps = []
    for num_particles, repeats in ((1, 2000), (4, 1000), (64, 300)):
        bounds = evaluate_bounds(coin_model, coin_guide, X.repeat(repeats), num_particles=num_particles)
        iwae = bounds.iwae.value.reshape(repeats, len(X))
        # The exact expectation: the number of particles with b = 1 is binomial.
        ones = torch.arange(num_particles + 1, dtype=torch.float64)[:, None]
        probability = dist.Binomial(num_particles, GUESS).log_prob(ones).exp()
        value = torch.logaddexp(ones.log() + log_w[1], (num_particles - ones).log() + log_w[0])
        expected = (probability * (value - math.log(num_particles))).sum(0)
        assert ((iwae.mean(0) - expected).abs() < 4 * iwae.std(0) / math.sqrt(repeats)).all()
        gaps.append(evidence - expected)
    assert ((gaps[0] > gaps[1]) & (gaps[1] > gaps[2]) & (gaps[2] > 0) & (gaps[2] < 0.01)).all()


def test_elbo_terms_add_up_and_agree_with_the_closed_form():
    likelihood, prior, log_q = coin_terms()
    bounds = evaluate_bounds(coin_model, coin_guide, X, num_particles=20_000)
    torch.testing.assert_close(bounds.elbo.value, bounds.reconstruction.value - bounds.kl.value)
    q = log_q.exp()
    for got, each in ((bounds.reconstruction, likelihood), (bounds.kl, log_q - prior)):
        mean = (q * each).sum(0)
        standard_error = ((q * each**2).sum(0) - mean**2).sqrt() / math.sqrt(20_000)
        assert ((got.value - mean).abs() < 4 * standard_error).all()


def test_exact_posterior_gives_the_evidence():
    """z | x ~ N(0.8 x, 0.2) and x ~ N(0, 1.25), whatever is drawn."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.8 * x, math.sqrt(0.2)))

    evidence = dist.Normal(0.0, math.sqrt(1.25)).log_prob(X)
    for num_particles in (1, 7):
        bounds = evaluate_bounds(normal_model, guide, X, num_particles=num_particles)
        torch.testing.assert_close((bounds.iwae.value, bounds.elbo.value), (evidence, evidence))


class NextRows(Messenger):
    """Sets the values of a site to the next rows of a table, one row for each particle."""

    def __init__(self, name: str, rows: torch.Tensor) -> None:
        super().__init__()
        self.name, self.rows, self.next = name, rows, 0

    def _pyro_sample(self, msg) -> None:
        if msg["name"] == self.name and not msg["done"]:
            count = msg["fn"].batch_shape[0]
            msg["value"], msg["done"] = self.rows[self.next : self.next + count], True
            self.next += count


@pytest.mark.parametrize("chunk", [None, 1, 4, 7, 11, 20])
def test_every_estimate_on_given_draws(chunk):
    """The chunked estimates equal sums over all K particles, with log weights of some thousand nats."""
    num_particles, far = 11, 6000.0
    z = 0.7 * X + 0.6 * torch.randn(num_particles, 2, dtype=torch.float64)
    log_likelihood = dist.Normal(z, 0.5).log_prob(X) + far
    log_ratio = dist.Normal(0.7 * X, 0.6).log_prob(z) - dist.Normal(0.0, 1.0).log_prob(z)
    log_w = log_likelihood - log_ratio

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)
            pyro.factor("far", x.new_full((), far))

    with NextRows("z", z) as handler:
        bounds = evaluate_bounds(model, normal_guide, X, num_particles=num_particles, chunk=chunk)
    assert handler.next == num_particles
    assert isinstance(bounds, Bounds)
    w = (log_w - far).exp()

    def check(estimate: DatumEstimate, value: torch.Tensor, error: torch.Tensor) -> None:
        torch.testing.assert_close(estimate.value, value, rtol=0, atol=1e-11)  # 6000 is known to 1e-12
        torch.testing.assert_close(estimate.error, error, rtol=0, atol=1e-11)

    check(bounds.iwae, w.mean(0).log() + far, w.std(0) / w.mean(0) / math.sqrt(num_particles))
    for estimate, each in ((bounds.elbo, log_w), (bounds.reconstruction, log_likelihood), (bounds.kl, log_ratio)):
        check(estimate, each.mean(0), each.std(0) / math.sqrt(num_particles))
    torch.testing.assert_close(bounds.effective_sample_size, effective_sample_size(log_w), rtol=1e-10, atol=0)
    torch.testing.assert_close(bounds.log_weight, log_w, rtol=0, atol=1e-11)


def test_errors_match_the_variance_over_replicates():
    """The estimates of one datum, repeated, vary as much as their standard errors state."""
    replicates, num_particles = 4000, 200
    x = torch.full((replicates,), 0.3, dtype=torch.float64)
    bounds = evaluate_bounds(normal_model, normal_guide, x, num_particles=num_particles, chunk=50)
    for estimate in (bounds.iwae, bounds.elbo, bounds.reconstruction, bounds.kl):
        stated, observed = estimate.error.square().mean(), estimate.value.var()
        # The sample variance of R normal numbers has a relative standard error of sqrt(2 / R). That of the mean of
        # the stated variances is far smaller; the error of the delta method is of relative order 1 / K.
        tolerance = 4 * math.sqrt(2 / replicates) + 2 / num_particles
        assert abs(stated / observed - 1) < tolerance


def test_error_is_nan_for_one_particle_and_one_nat_for_one_dominant_weight():
    one = evaluate_bounds(normal_model, normal_guide, X, num_particles=1)
    assert one.iwae.error.isnan().all() and one.kl.error.isnan().all()
    torch.testing.assert_close(one.effective_sample_size, torch.ones_like(X))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(()), 1e4))

    # Nearly all draws are far from the posterior: the best of eight has all the weight.
    dominated = evaluate_bounds(normal_model, guide, X, num_particles=8, chunk=3)
    torch.testing.assert_close(dominated.effective_sample_size, torch.ones_like(X))
    torch.testing.assert_close(dominated.iwae.error, torch.ones_like(X))


@pytest.mark.parametrize("chunk", [None, 1])
def test_weights_of_zero(chunk):
    """A particle that is impossible under the model has weight zero; the bound is -inf if all are impossible."""

    def model(x):
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(x.new_tensor(0.5)))
            pyro.factor("even", torch.where(b == 0, 0.0, -math.inf))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("b", dist.Bernoulli(x.new_tensor(0.5)))

    bits = torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    with NextRows("b", bits):
        bounds = evaluate_bounds(model, guide, X, num_particles=3, chunk=chunk)
    torch.testing.assert_close(bounds.iwae.value, torch.tensor([-math.log(3), -math.inf], dtype=torch.float64))
    torch.testing.assert_close(bounds.iwae.error[0], torch.tensor(1.0, dtype=torch.float64))
    assert bounds.effective_sample_size[1].isnan()
    assert (bounds.elbo.value == -math.inf).all()
    assert bounds.elbo.error.isnan().all()
    assert ((bounds.kl.value == 0) & (bounds.kl.error == 0)).all()  # p and q are equal


def test_mean_over_data():
    first = DatumEstimate(torch.tensor([1.0, 2.0]), torch.tensor([0.3, 0.4]))
    second = DatumEstimate(torch.tensor([[6.0]]), torch.tensor([[1.2]]))
    mean = mean_over_data(first, second)
    assert mean.mean == pytest.approx(3.0)
    assert mean.standard_error == pytest.approx(math.sqrt(7 / 3))  # variance (4 + 1 + 9) / 2 = 7
    assert mean.monte_carlo_error == pytest.approx(1.3 / 3)
    assert math.isnan(mean_over_data(second).standard_error)
    with pytest.raises(ValueError, match="at least one datum"):
        mean_over_data()


class LiveNumbers(TorchDispatchMode):
    """Counts the numbers in live tensors that were created inside the context, and keeps the maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.made, self.most = WeakIdKeyDictionary(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.made[tensor.untyped_storage()] = tensor.untyped_storage().nbytes() // tensor.element_size()
        self.most = max(self.most, sum(self.made.values()))
        return out


def test_memory_is_bounded_by_the_chunk():
    """Of particles outside the chunk, three numbers per datum are kept, for latents of any size."""

    def program(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(200), 1.0).expand([len(x), 200]).to_event(1))

    def live(num_particles: int, chunk: int | None) -> int:
        with LiveNumbers() as numbers:
            evaluate_bounds(program, program, X, num_particles=num_particles, chunk=chunk)
        return numbers.most

    ten = live(20, 10)
    assert ten < 10 * 10 * 200 * len(X)  # a few tensors of the size of a chunk's latents
    assert live(1000, 10) < ten + 3 * 1000 * len(X) + 100
    assert live(1000, None) > 50 * ten


def test_no_gradients():
    scale = torch.tensor(1.0, requires_grad=True)

    def model():
        pyro.sample("x", dist.Normal(0.0, scale), obs=torch.tensor(1.0))

    bounds = evaluate_bounds(model, lambda: None, num_particles=4, chunk=2)
    for part in bounds:
        assert not any(tensor.requires_grad for tensor in (part if isinstance(part, tuple) else (part,)))


def test_effective_sample_size():
    even = torch.full((5, 2), -1e4)
    torch.testing.assert_close(effective_sample_size(even), torch.tensor([5.0, 5.0]))
    one = torch.tensor([0.0, -math.inf, -math.inf])
    torch.testing.assert_close(effective_sample_size(one), torch.tensor(1.0))
    torch.testing.assert_close(effective_sample_size(torch.tensor([1.0, 3.0]).log()), torch.tensor(1.6))


@pytest.mark.parametrize(("num_particles", "chunk"), [(0, None), (4, 0)])
def test_counts_must_be_positive(num_particles, chunk):
    with pytest.raises(ValueError, match="num_particles and chunk >= 1"):
        evaluate_bounds(normal_model, normal_guide, X, num_particles=num_particles, chunk=chunk)


def test_chunks_of_different_data():
    def model():
        with pyro.plate("data", 10, subsample_size=2) as index:
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.arange(10.0)[index])

    def guide():
        with pyro.plate("data", 10, subsample_size=2):
            pass

    assert evaluate_bounds(model, guide, num_particles=4).iwae.value.shape == (2,)
    with pytest.raises(ValueError, match="same data in every chunk"):
        evaluate_bounds(model, guide, num_particles=4, chunk=2)
