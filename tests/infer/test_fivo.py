# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The expected gradient of FIVO, by enumerating all draws and ancestors of a tiny hidden Markov model.

For reparameterised draws, the exact gradient is integrated over the noise by Gauss-Hermite quadrature, and the
estimator is averaged over many draws.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from fivo_by_hand import (
    X,
    by_hand,
    exact_gradient,
    expected_gradient,
    forced_surrogate,
    outcomes,
    parameters,
    programs,
)
from no_host_reads import NoHostReads
from pyro.infer import SVI
from pyro.nn import PyroModule
from torch import Tensor

from pyro_sqair.infer import FIVO, VIMCO, smc_evidence
from pyro_sqair.infer.resampling import multinomial
from pyro_sqair.infer.vimco import control_variate

SMALL, LONG, WIDE = (2, 2), (3, 2), (2, 3)  # frames, particles
CASES = [
    pytest.param(SMALL, 1, False, id="T2-K2"),
    pytest.param(SMALL, 1, True, id="T2-K2-company"),
    pytest.param(SMALL, 0.85, False, id="T2-K2-adaptive"),
    pytest.param(LONG, 0.85, True, id="T3-K2-adaptive-company", marks=pytest.mark.slow),
    pytest.param(LONG, 1, False, id="T3-K2", marks=pytest.mark.slow),
    pytest.param(LONG, 1, True, id="T3-K2-company", marks=pytest.mark.slow),
    pytest.param(WIDE, 1, True, id="T2-K3", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("kind", ["geometric", "arithmetic"])
@pytest.mark.parametrize("full", [True, False], ids=["resampling-score", "default"])
@pytest.mark.parametrize(("size", "threshold", "company"), CASES)
def test_expected_gradient(size, threshold, company, full, kind):
    """Exact with the score of the ancestors; otherwise that of the bound at fixed probabilities of ancestors."""
    length, num_particles = size
    x = X[:length]
    values, ancestors = outcomes(length, num_particles)
    stated = exact_gradient(x, values, ancestors, threshold, full)
    estimator = FIVO(num_particles, "multinomial", threshold, kind, resampling_score=full)
    got = expected_gradient(estimator, x, values, ancestors, company)
    torch.testing.assert_close(got, stated, rtol=0, atol=1e-10)
    assert stated.abs().min() > 1e-4  # every parameter is tested
    exact = exact_gradient(x, values, ancestors, threshold, True)
    assert ((stated - exact).abs().max() > 1e-3) == (not full)


def test_enumeration_covers_both_decisions_of_the_adaptive_filter():
    values, ancestors = outcomes(2, 2)
    log_ancestors = by_hand(*parameters(), X[:2], values, ancestors, 0.85).log_ancestors
    assert (log_ancestors == -math.inf).any()
    assert ((log_ancestors < 0) & (log_ancestors > -math.inf)).any()
    assert (log_ancestors == 0).any()


def test_enumeration_detects_wrong_signals():
    values, ancestors = outcomes(2, 2)
    exact = exact_gradient(X[:2], values, ancestors, 1, True)

    def now_alone(steps):
        """Without the later terms: wrong even though every frame by itself is VIMCO."""
        gains = torch.stack([step.increment for step in steps]).unsqueeze(1)
        baselines = [control_variate(step.log_weight, log_prior=step.prior_log_weight) for step in steps]
        return (gains - torch.stack(baselines)).detach()

    def own_weight_in_baseline(steps):
        gains = torch.stack([step.increment for step in steps])
        later = gains.flip(0).cumsum(0).flip(0).unsqueeze(1)
        return (later - torch.stack([step.log_weight.mean(0, keepdim=True) for step in steps])).detach()

    def nothing(steps):
        return torch.zeros(len(steps), 2, 1)

    for signal in (now_alone, own_weight_in_baseline, nothing):
        estimator = FIVO(2, "multinomial", 1, resampling_score=True)
        got = expected_gradient(estimator, X[:2], values, ancestors, company=False, signal=signal)
        assert (got - exact).abs().max() > 0.02, signal.__name__


def test_value_is_the_bound_of_the_filter():
    values, ancestors = outcomes(3, 2)
    some = torch.arange(0, values.shape[-1], 37)
    values, ancestors = values[..., some], ancestors[..., some]
    frames = X.unsqueeze(1).expand(-1, len(some))
    theta, phi = parameters()
    for threshold in (0.85, 1):
        value = forced_surrogate(FIVO(2, "multinomial", threshold), theta, phi, frames, values, ancestors)
        out = by_hand(theta, phi, X, values, ancestors, threshold)
        possible = out.log_ancestors > -math.inf if threshold == 1 else (out.log_ancestors == 0)
        assert possible.any()
        torch.testing.assert_close(value[possible], out.bound[possible], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["geometric", "arithmetic"])
@pytest.mark.parametrize("discrete", [True, False])
def test_without_resampling_it_is_vimco(kind, discrete):
    """Bound and gradient with the same seed."""
    frames = torch.randn(3, 20, dtype=torch.float64)
    results = []
    for estimator in (FIVO(4, threshold=0, control_variate=kind), VIMCO(4, 1, control_variate=kind)):
        theta, phi = parameters()
        pyro.set_rng_seed(5)
        value = estimator.surrogate(*programs(theta, phi, discrete), frames)
        gradient = torch.cat(torch.autograd.grad((value * torch.arange(20)).sum(), (theta, phi)))
        results.append((value.detach(), gradient))
    torch.testing.assert_close(results[0], results[1], rtol=1e-11, atol=1e-11)
    assert (results[0][1].abs() > 0.1).all()


# ---------------------------------------------------------------- reparameterised draws


def quadrature(full: bool) -> Tensor:
    """The gradient of the expected bound for T = K = 2, integrated over noise and summed over ancestors."""
    nodes, weight = np.polynomial.hermite_e.hermegauss(18)
    weight = weight / weight.sum()
    noise = torch.tensor(np.stack(np.meshgrid(*[nodes] * 4, indexing="ij")).reshape(2, 2, -1))
    prob = torch.tensor(np.stack(np.meshgrid(*[weight] * 4, indexing="ij")).prod(0).reshape(-1))
    theta, phi = parameters()
    total = torch.zeros((), dtype=torch.float64)
    for pair in itertools.product(range(2), repeat=2):
        ancestors = torch.tensor(pair).reshape(1, 2, 1).expand(-1, -1, noise.shape[-1])
        out = by_hand(theta, phi, X[:2], noise, ancestors, 1, discrete=False)
        chance = out.log_ancestors if full else out.log_ancestors.detach()
        total = total + (prob * chance.exp() * out.bound).sum()
    return torch.cat(torch.autograd.grad(total, (theta, phi)))


@pytest.mark.parametrize("full", [True, False], ids=["resampling-score", "default"])
def test_gradient_of_reparameterised_draws(full):
    """Within 4 standard errors of the stated gradient, and further from the other one."""
    copies = 20_000
    theta, phi = (p.detach().unsqueeze(-1).repeat(1, copies).requires_grad_() for p in parameters())
    estimator = FIVO(2, "multinomial", 1, resampling_score=full)
    value = estimator.surrogate(*programs(theta, phi, discrete=False), X[:2].unsqueeze(1).expand(-1, copies))
    each = torch.cat(torch.autograd.grad(value.sum(), (theta, phi)))  # [parameters, copies]
    error = each.std(-1) / math.sqrt(copies)
    stated, other = quadrature(full), quadrature(not full)
    assert ((each.mean(-1) - stated).abs() < 4 * error).all()
    assert ((each.mean(-1) - other).abs() > 4 * error).any()


# ---------------------------------------------------------------- use


class Switch(PyroModule):
    """A binary state that tends to persist, observed with noise."""

    def __init__(self, is_model: bool) -> None:
        super().__init__()
        self.is_model = is_model
        self.linear = torch.nn.Linear(1 if is_model else 2, 1)

    def init(self, batch: int) -> Tensor:
        return torch.full((batch,), 0.5)

    def step(self, t: int, state: Tensor, frame: Tensor) -> Tensor:
        inputs = [state] if self.is_model else [state, frame.expand_as(state)]
        # as in `Program.part`: read without registering the parameters again
        logits = self.__dict__["_modules"]["linear"](torch.stack(inputs, -1)).squeeze(-1)
        z = pyro.sample("z", dist.Bernoulli(logits=logits))
        if self.is_model:
            pyro.sample("x", dist.Normal(2 * z - 1, 0.7), obs=frame)
        return z


def switches(batch: int = 40, length: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    z = (torch.rand(1, batch, generator=generator) < 0.5).float().expand(length, -1).clone()
    z[length // 2 :, ::3] = 1 - z[length // 2 :, ::3]
    return 2 * z - 1 + 0.7 * torch.randn(length, batch, generator=generator)


@pytest.mark.parametrize("how", ["module", "svi"])
def test_learning(how):
    frames, model, guide = switches(), Switch(True), Switch(False)
    before = smc_evidence(model, guide, frames, num_particles=50).sum()
    if how == "module":
        objective = FIVO(5, threshold=0.7)(model, guide)
        assert {name for name, _ in objective.named_parameters()} >= {"model.linear.bias", "guide.linear.weight"}
        optimiser = torch.optim.Adam(objective.parameters(), 0.05)
        for _ in range(60):
            optimiser.zero_grad()
            objective(frames).backward()
            optimiser.step()
    else:
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), FIVO(5, threshold=0.7))
        losses = [svi.step(frames) for _ in range(50)]
        assert losses[-1] < losses[0]
        assert set(pyro.get_param_store()) == {f"linear$$${part}" for part in ("weight", "bias")}
    after = smc_evidence(model, guide, frames, num_particles=50).sum()
    assert after > before + 10
    if how == "module":  # model and guide have separate parameters here
        logits = guide.linear(torch.tensor([[0.5, 1.0], [0.5, -1.0]])).squeeze(-1)
        assert logits[0] > logits[1] + 1


def test_loss_needs_no_gradients_and_agrees():
    frames, estimator = switches(), FIVO(5)
    model, guide = Switch(True), Switch(False)
    pyro.set_rng_seed(0)
    number = estimator.loss(model, guide, frames)
    pyro.set_rng_seed(0)
    loss = estimator.loss_and_grads(model, guide, frames)
    pyro.set_rng_seed(0)
    evidence = smc_evidence(model, guide, frames, num_particles=5)
    assert isinstance(number, float)
    assert not loss.requires_grad
    assert number == pytest.approx(loss.item(), rel=1e-6)
    assert number == pytest.approx(-evidence.sum().item(), rel=1e-6)
    assert all(p.grad is not None for p in (*model.parameters(), *guide.parameters()))


def test_on_the_device_under_test(device):
    frames, model, guide = switches().to(device), Switch(True).to(device), Switch(False).to(device)
    init = Switch.init
    for program in (model, guide):
        program.init = lambda batch, program=program: init(program, batch).to(device)
    for estimator in (FIVO(3), FIVO(3, "multinomial", 1, "arithmetic", resampling_score=True)):
        loss = estimator.loss_and_grads(model, guide, frames)
        assert loss.device.type == device.type
    assert guide.linear.weight.grad.abs().sum() > 0


def test_no_host_reads_on_the_hot_path():
    theta, phi = parameters()
    frames = torch.randn(3, 4, dtype=torch.float64)
    with pyro.validation_enabled(False), NoHostReads():
        FIVO(3, "multinomial", resampling_score=True).differentiable_loss(*programs(theta, phi), frames).backward()
    assert (phi.grad != 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_particles": 1}, "num_particles >= 2 for FIVO, got 1"),
        ({"threshold": -1}, "threshold from 0 .* got -1"),
        ({"control_variate": "harmonic"}, "'geometric', 'arithmetic'.* got 'harmonic'"),
        ({"resampling": "branching"}, "'systematic'.* got 'branching'"),
        ({"resampling_score": True}, "'multinomial' with resampling_score, got 'systematic'"),
        ({"resampling": multinomial, "resampling_score": True}, "'multinomial' with resampling_score"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        FIVO(**arguments)
