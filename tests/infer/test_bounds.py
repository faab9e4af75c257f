# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Bounds for evaluation against models whose evidence is known."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.poutine.messenger import Messenger

from pyro_sqair.infer import Terms, effective_sample_size, elbo_terms, iwae_bound

X = torch.tensor([0.3, -1.5], dtype=torch.float64)
PRIOR, GUESS = 0.3, torch.tensor([0.6, 0.4], dtype=torch.float64)


def coin_model(x):
    with pyro.plate("data", len(x)):
        b = pyro.sample("b", dist.Bernoulli(torch.tensor(PRIOR, dtype=torch.float64)))
        pyro.sample("x", dist.Normal(2 * b - 1, torch.ones((), dtype=torch.float64)), obs=x)


def coin_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("b", dist.Bernoulli(GUESS))


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
        # The repeats are data of one run: x repeated.
        bounds = torch.stack([iwae_bound(coin_model, repeated_guide, X.repeat(repeats), num_particles=num_particles)])
        bounds = bounds.reshape(repeats, len(X))
        # Its expectation is exact: the number of heads among K particles is binomial.
        heads = torch.arange(num_particles + 1, dtype=torch.float64)[:, None]
        chance = dist.Binomial(num_particles, GUESS).log_prob(heads).exp()
        value = torch.logaddexp(heads.log() + log_w[1], (num_particles - heads).log() + log_w[0])
        expected = (chance * (value - math.log(num_particles))).sum(0)
        standard_error = bounds.std(0) / math.sqrt(repeats)
        assert ((bounds.mean(0) - expected).abs() < 4 * standard_error).all()
        gaps.append(evidence - expected)
    assert (gaps[0] > gaps[1]).all()
    assert (gaps[1] > gaps[2]).all()
    assert (gaps[2] > 0).all()
    assert (gaps[2] < 0.01).all()


def repeated_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("b", dist.Bernoulli(GUESS.repeat(len(x) // 2)))


def test_perfect_proposal_gives_the_evidence_with_one_particle():
    likelihood, prior, _ = coin_terms()
    posterior = (likelihood + prior).softmax(0)[1]

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("b", dist.Bernoulli(posterior))

    evidence = (likelihood + prior).logsumexp(0)
    torch.testing.assert_close(iwae_bound(coin_model, guide, X, num_particles=1), evidence)
    torch.testing.assert_close(elbo_terms(coin_model, guide, X, num_particles=7).elbo, evidence)


class NextBits(Messenger):
    """Hands out the rows of a table of bits, as many as there are particles."""

    def __init__(self, bits: torch.Tensor) -> None:
        super().__init__()
        self.bits, self.row = bits, 0

    def _pyro_sample(self, msg) -> None:
        if msg["name"] == "b" and not msg["done"]:
            count = msg["fn"].batch_shape[0]
            msg["value"], msg["done"] = self.bits[self.row : self.row + count], True
            self.row += count


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 50])
def test_chunked_equals_unchunked(chunk):
    bits = torch.randint(2, (7, 2), generator=torch.Generator().manual_seed(0)).double()
    likelihood, prior, log_q = coin_terms()
    log_w = torch.stack([(likelihood + prior - log_q)[row.long(), torch.arange(2)] for row in bits])
    with NextBits(bits) as handler:
        bound = iwae_bound(coin_model, coin_guide, X, num_particles=7, chunk=chunk)
    assert handler.row == 7
    torch.testing.assert_close(bound, log_w.exp().mean(0).log(), rtol=0, atol=1e-12)
    with NextBits(bits):
        elbo = elbo_terms(coin_model, coin_guide, X, num_particles=7, chunk=chunk).elbo
    torch.testing.assert_close(elbo, log_w.mean(0), rtol=0, atol=1e-12)


def test_elbo_terms_add_up_and_agree_with_the_closed_form():
    likelihood, prior, log_q = coin_terms()
    terms = elbo_terms(coin_model, coin_guide, X, num_particles=20_000)
    assert isinstance(terms, Terms)
    torch.testing.assert_close(terms.elbo, terms.reconstruction - terms.kl)
    q = log_q.exp()
    for got, each in ((terms.reconstruction, likelihood), (terms.kl, log_q - prior)):
        mean = (q * each).sum(0)
        standard_error = ((q * each**2).sum(0) - mean**2).sqrt() / math.sqrt(20_000)
        assert ((got - mean).abs() < 4 * standard_error).all()


def test_no_gradients():
    scale = torch.tensor(1.0, requires_grad=True)

    def model():
        pyro.sample("x", dist.Normal(0.0, scale), obs=torch.tensor(1.0))

    assert not iwae_bound(model, lambda: None, num_particles=2).requires_grad
    assert not elbo_terms(model, lambda: None, num_particles=2).elbo.requires_grad


def test_effective_sample_size():
    even = torch.full((5, 2), -1e4)
    torch.testing.assert_close(effective_sample_size(even), torch.tensor([5.0, 5.0]))
    one = torch.tensor([0.0, -math.inf, -math.inf])
    torch.testing.assert_close(effective_sample_size(one), torch.tensor(1.0))
    torch.testing.assert_close(effective_sample_size(torch.tensor([1.0, 3.0]).log()), torch.tensor(1.6))


@pytest.mark.parametrize(("num_particles", "chunk"), [(0, None), (4, 0)])
def test_counts_must_be_positive(num_particles, chunk):
    with pytest.raises(ValueError, match="num_particles and chunk >= 1"):
        iwae_bound(coin_model, coin_guide, X, num_particles=num_particles, chunk=chunk)


def test_chunks_of_different_data():
    def model():
        with pyro.plate("data", 10, subsample_size=2) as index:
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.arange(10.0)[index])

    def guide():
        with pyro.plate("data", 10, subsample_size=2):
            pass

    assert iwae_bound(model, guide, num_particles=4).shape == (2,)
    with pytest.raises(ValueError, match="same data in every chunk"):
        iwae_bound(model, guide, num_particles=4, chunk=2)
