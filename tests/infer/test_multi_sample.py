# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""By enumeration, the expected gradient of every multi-sample estimator is the exact one plus its stated bias.

The expected values follow the formulas of the papers, with log-probabilities written by hand.
"""

import itertools
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from enumerated_pairs import PAIRS
from enumeration import Forced, Outcomes, Weighed, bound_by_hand, shares_by_hand
from no_host_reads import NoHostReads
from torch import Tensor

from pyro_sqair.infer import OVIS, RWS, VIMCO, IWAEWithoutScore, ReleasedSQAIRSignal
from pyro_sqair.infer.log_weights import log_weights
from pyro_sqair.infer.multi_sample import MultiSampleELBO
from pyro_sqair.infer.vimco import control_variate

Make = Callable[..., MultiSampleELBO]

UNBIASED: dict[str, Make] = {
    "VIMCO": VIMCO,
    "arithmetic VIMCO": lambda *args, **kwargs: VIMCO(*args, control_variate="arithmetic", **kwargs),
    "OVIS(0)": OVIS,
}
BIASED: dict[str, Make] = {
    "OVIS(0.3)": lambda *args, **kwargs: OVIS(*args, gamma=0.3, **kwargs),
    "OVIS(1)": lambda *args, **kwargs: OVIS(*args, gamma=1.0, **kwargs),
    "released": ReleasedSQAIRSignal,
    "no score": IWAEWithoutScore,
    "RWS": RWS,
}
ESTIMATORS = UNBIASED | BIASED
CASES = [(k, alpha) for k in (2, 3, 5) for alpha in (0.0, 0.4) if k == 3 or alpha == 0]


def stated(name: str, outcomes: Outcomes, exact: Tensor, alpha: float) -> Tensor:
    """The documented expected gradient of the estimator, given the exact gradient of the bound."""

    def with_gamma(gamma: float) -> Tensor:
        """The exact gradient, plus gamma E[sum_k v_k h_k]."""

        def bias(q: Weighed) -> Tensor:
            return gamma * (shares_by_hand(q.log_p - q.log_q, alpha) * q.score).sum(0)

        return exact + outcomes.mean_gradient(bias)

    def released(q: Weighed) -> Tensor:
        """The gradient of the bound without score terms, plus the score term of the ELBO."""
        log_weight = q.log_p - q.log_q
        return bound_by_hand(log_weight, alpha) + (log_weight.detach() * q.score).mean(0)

    def no_score(q: Weighed) -> Tensor:
        return bound_by_hand(q.log_p - (q.log_q - q.scored_log_q) - q.scored_log_q.detach(), alpha)

    def wake_wake(q: Weighed) -> Tensor:
        """Weights of order alpha for log p, and of order 0 for log q."""
        log_weight = q.log_p - q.log_q
        return (shares_by_hand(log_weight, alpha) * q.log_p + shares_by_hand(log_weight) * q.log_q).sum(0)

    match name:
        case "OVIS(0.3)" | "OVIS(1)":
            return with_gamma(0.3 if name == "OVIS(0.3)" else 1.0)
        case "released":
            return outcomes.mean_gradient(released)
        case "no score":
            return outcomes.mean_gradient(no_score)
        case "RWS":
            return outcomes.mean_gradient(wake_wake, cut=True)
    return exact


@pytest.mark.parametrize("vectorize", [True, False], ids=["vectorised", "one at a time"])
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(("num_particles", "alpha"), CASES)
def test_expected_gradient(pair, num_particles, alpha, vectorize):
    outcomes = Outcomes(PAIRS[pair], num_particles, data=1 if num_particles == 5 else 2)
    exact = outcomes.exact_gradient(alpha)
    assert exact.abs().min() > 1e-4  # every parameter is tested
    for name, make in ESTIMATORS.items():
        estimator = make(num_particles, alpha=alpha, vectorize_particles=vectorize)
        got = outcomes.estimated_gradient(estimator.surrogate)
        wanted = stated(name, outcomes, exact, alpha)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}")
        if name in BIASED:
            assert (wanted - exact).abs().max() > 1e-3, name


@pytest.mark.parametrize("vectorize", [True, False], ids=["vectorised", "one at a time"])
@pytest.mark.parametrize("pair", PAIRS)
def test_value_is_the_bound(pair, vectorize):
    outcomes = Outcomes(PAIRS[pair], 3)
    particles = outcomes.weighed(outcomes.pair.parameters())
    total = particles.score.sum(0).exp().sum()
    torch.testing.assert_close(total, torch.tensor(2.0, dtype=torch.float64))  # probabilities, of two data
    for (name, make), alpha in itertools.product(ESTIMATORS.items(), (0.0, 0.4)):
        value = outcomes.estimated_value(make(3, alpha=alpha, vectorize_particles=vectorize).surrogate)
        wanted = bound_by_hand(particles.log_p - particles.log_q, alpha)
        torch.testing.assert_close(value, wanted, rtol=0, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")


def test_loss_of_all_data_together_has_the_exact_gradient():
    """By `differentiable_loss`, for each of the 4^2 x 4^2 joint outcomes of two data."""
    pair, count = PAIRS["masked"], 16
    outcomes, estimator = Outcomes(pair, 2), VIMCO(2)
    total = torch.zeros(15, dtype=torch.float64)
    for i, j in itertools.product(range(count), repeat=2):
        bits, noise = (values[..., [i, count + j]] for values in (outcomes.bits, outcomes.noise))
        parameters = pair.parameters()
        with Forced(*pair.layout(bits, noise)):
            loss = estimator.differentiable_loss(*pair.programs(parameters), pair.data)
        particles = pair.by_hand(parameters, pair.data, bits, noise, lambda draw: draw)
        probability = particles.score.sum().exp().detach()
        total += probability * torch.cat(torch.autograd.grad(loss, parameters))
    torch.testing.assert_close(-total, outcomes.exact_gradient(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("wrong", ["averaged signal", "own weight in the baseline", "masked score"])
def test_enumeration_catches_wrong_estimators(wrong):
    """VIMCO with one error each; with "masked score", as if nothing depended on masked draws."""

    def surrogate(model: Callable, guide: Callable, x: Tensor) -> Tensor:
        particles = log_weights(model, guide, (x,), num_particles=3, max_plate_nesting=1)
        bound = particles.log_weight.logsumexp(0)
        signal = (bound - control_variate(particles.log_weight)).detach()
        terms = {
            "averaged signal": (signal * particles.score).mean(0),
            "own weight in the baseline": ((bound - particles.log_weight.mean(0)).detach() * particles.score).sum(0),
            "masked score": (signal * particles.scored_log_q).sum(0),
        }
        return bound + terms[wrong]

    outcomes = Outcomes(PAIRS["masked"], 3)
    exact = outcomes.exact_gradient()
    error = (outcomes.estimated_gradient(surrogate) - exact).abs().max()
    assert error > 0.02 * exact.abs().max()


def test_order_near_one_is_the_elbo():
    log_weight = torch.randn(5, 3, dtype=torch.float64)
    bound = VIMCO(5, alpha=1 - 1e-6).bound(log_weight)
    torch.testing.assert_close(bound, log_weight.mean(0), rtol=0, atol=1e-5)
    assert (VIMCO(5, alpha=0.5).bound(log_weight) > bound).all()
    assert (VIMCO(5).bound(log_weight) > VIMCO(5, alpha=0.5).bound(log_weight)).all()


@pytest.mark.parametrize("name", ["VIMCO", "arithmetic VIMCO", "OVIS(0)", "OVIS(1)", "released"])
def test_signals_stay_bounded_at_high_order(name):
    """As alpha tends to 1 the signal tends to a difference of log weights, though t = 1 - alpha divides it."""
    log_weight = torch.randn(5, 100, dtype=torch.float64)
    spread = log_weight.amax() - log_weight.amin() + 1
    assert (ESTIMATORS[name](5, alpha=1 - 1e-6).signal(log_weight).abs() < spread).all()


EXTREME = torch.tensor([[1e4, 0.0, -1e4], [-1e4, -torch.inf, -1e4], [-torch.inf, -torch.inf, -1e4]])


@pytest.mark.parametrize("alpha", [0.0, 0.9])
@pytest.mark.parametrize("name", ["VIMCO", "arithmetic VIMCO", "OVIS(0)", "OVIS(1)", "no score"])
def test_signals_of_extreme_weights_are_finite(name, alpha):
    """Weights that differ by a factor of e^20000, or of which all but one are zero."""
    assert ESTIMATORS[name](3, alpha=alpha).signal(EXTREME).isfinite().all()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_gradient_is_finite_with_impossible_particles(name):
    """The data have probability zero for particles with b = 1."""
    logit = torch.zeros((), requires_grad=True)

    def model(x):
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)
            pyro.factor("never", torch.where(b.bool(), -torch.inf, 0.0))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("b", dist.Bernoulli(logits=logit))

    bits = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    with Forced({"b": bits}, {}):
        loss = ESTIMATORS[name](3).differentiable_loss(model, guide, torch.zeros(2))
    loss.backward()
    # The released signal is log w_k itself, here -inf.
    assert loss.isfinite() == logit.grad.isfinite() == (name != "released")


@pytest.mark.parametrize("name", ESTIMATORS)
def test_no_host_reads_on_the_hot_path(name):
    outcomes = Outcomes(PAIRS["masked"], 2)
    theta, phi = outcomes.pair.parameters()
    programs = outcomes.pair.programs((theta, phi))
    with pyro.validation_enabled(False):
        with NoHostReads(), outcomes.forced:
            ESTIMATORS[name](2, alpha=0.3).differentiable_loss(*programs, outcomes.x).backward()
        with NoHostReads(), pytest.raises(AssertionError, match="was read"):
            theta.sum().item()
    assert phi.grad.isfinite().all()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_too_few_particles(name):
    least = 1 if name == "no score" else 2
    with pytest.raises(ValueError, match=f"num_particles >= {least} for .* got {least - 1}"):
        ESTIMATORS[name](least - 1)
    assert ESTIMATORS[name](least).num_particles == least


@pytest.mark.parametrize("alpha", [-0.1, 1.0, float("nan")])
def test_order_out_of_range(alpha):
    with pytest.raises(ValueError, match=f"0 <= alpha < 1, got {alpha}"):
        VIMCO(2, alpha=alpha)
    estimator = OVIS(2)
    with pytest.raises(ValueError, match="alpha"):
        estimator.alpha = alpha
