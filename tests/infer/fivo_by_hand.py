# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""A tiny hidden Markov model with a particle filter written by hand, and all its draws and ancestors.

The filter uses log-probabilities written by hand, without Pyro and without the library.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from enumeration import Forced, log_bernoulli, log_normal
from torch import Tensor

from pyro_sqair.infer import FIVO

X = torch.tensor([1.75, -1.1, 0.4], dtype=torch.float64)  # a frame is a number


def parameters() -> tuple[Tensor, Tensor]:
    """Parameters: theta of the model and phi of the guide."""
    theta = torch.tensor([0.3, 0.9, 1.3, -0.4], dtype=torch.float64, requires_grad=True)
    phi = torch.tensor([0.2, 0.8, -0.5], dtype=torch.float64, requires_grad=True)
    return theta, phi


class Chain:
    """z_t is Bernoulli with a logit linear in z_{t-1}, or normal with a mean linear in it; x_t is normal."""

    def __init__(self, coefficients: Tensor, is_model: bool, discrete: bool) -> None:
        self.coefficients, self.is_model, self.discrete = coefficients, is_model, discrete

    def init(self, batch: int) -> Tensor:
        return torch.zeros(batch, dtype=torch.float64)

    def step(self, t: int, state: Tensor, frame: Tensor) -> Tensor:
        c = self.coefficients
        line = c[0] + c[1] * state if self.is_model else c[0] + c[1] * frame + c[2] * state
        z = pyro.sample(f"z_{t}", dist.Bernoulli(logits=line) if self.discrete else dist.Normal(line, 1.0))
        if self.is_model:
            pyro.sample(f"x_{t}", dist.Normal(c[2] * z + c[3] * z * state, 0.7), obs=frame)
        return z

    def __call__(self, frames: Tensor) -> None:
        """The same model or guide as a program without steps."""
        with pyro.plate("sequences", frames.shape[1], dim=-1):
            state = self.init(frames.shape[1])
            for t, frame in enumerate(frames):
                state = self.step(t, state, frame)


def programs(theta: Tensor, phi: Tensor, discrete: bool = True) -> tuple[Chain, Chain]:
    return Chain(theta, True, discrete), Chain(phi, False, discrete)


class ByHand(NamedTuple):
    """Results for every outcome, [O] each."""

    bound: Tensor
    log_draws: Tensor  # log-probability of the draws
    log_ancestors: Tensor  # log-probability of the ancestors


def by_hand(
    theta: Tensor, phi: Tensor, x: Tensor, values: Tensor, ancestors: Tensor, threshold: float, discrete: bool = True
) -> ByHand:
    """The particle filter, without Pyro and without the library.

    Args:
        theta, phi: parameters.
        x: shape [T].
        values: binary draws, or the noise of normal draws, [T, K, O].
        ancestors: ancestor indices of the particles, [T - 1, K, O].
        threshold: see `FIVO`.
        discrete: whether the draws are binary.
    """

    length, num_particles, count = values.shape
    own = torch.arange(num_particles).unsqueeze(-1).expand(-1, count)
    equal = torch.full((num_particles, count), -math.log(num_particles), dtype=torch.float64)
    state, log_v = torch.zeros(num_particles, count, dtype=torch.float64), equal
    bound, log_draws, log_ancestors = (torch.zeros(count, dtype=torch.float64) for _ in range(3))
    for t in range(length):
        if t > 0:
            size = 1 / log_v.exp().square().sum(0)
            done = size < threshold * num_particles if threshold < 1 else torch.ones(count, dtype=torch.bool)
            chosen = ancestors[t - 1]
            possible = done | (chosen == own).all(0)
            log_ancestors = log_ancestors + torch.where(done, log_v.gather(0, chosen).sum(0), 0.0)
            log_ancestors = torch.where(possible, log_ancestors, -math.inf)
            state = torch.where(done, state.gather(0, chosen), state)
            log_v = torch.where(done, equal, log_v)
        line_p, line_q = theta[0] + theta[1] * state, phi[0] + phi[1] * x[t] + phi[2] * state
        if discrete:
            z = values[t]
            log_q, log_p = log_bernoulli(z, line_q), log_bernoulli(z, line_p)
            log_draws = log_draws + log_q.sum(0)
        else:
            z = line_q + values[t]
            log_q, log_p = log_normal(z, line_q, 1.0), log_normal(z, line_p, 1.0)
        joint = log_v + log_p + log_normal(x[t], theta[2] * z + theta[3] * z * state, 0.7) - log_q
        increment = joint.logsumexp(0)
        bound, log_v, state = bound + increment, joint - increment, z
    return ByHand(bound, log_draws, log_ancestors)


def outcomes(length: int, num_particles: int) -> tuple[Tensor, Tensor]:
    """All draws [T, K, O] and ancestors [T - 1, K, O]."""
    draws = list(itertools.product((0.0, 1.0), repeat=length * num_particles))
    chosen = list(itertools.product(range(num_particles), repeat=(length - 1) * num_particles))
    pairs = list(itertools.product(draws, chosen))
    values = torch.tensor([d for d, _ in pairs], dtype=torch.float64).T.reshape(length, num_particles, -1)
    ancestors = torch.tensor([a for _, a in pairs], dtype=torch.int64).T.reshape(length - 1, num_particles, -1)
    return values, ancestors


def exact_gradient(x: Tensor, values: Tensor, ancestors: Tensor, threshold: float, full: bool) -> Tensor:
    """Gradient of the expected bound; if not `full`, the probabilities of ancestors are held fixed."""
    theta, phi = parameters()
    out = by_hand(theta, phi, x, values, ancestors, threshold)
    log_ancestors = out.log_ancestors if full else out.log_ancestors.detach()
    possible = log_ancestors > -math.inf
    prob = (out.log_draws + log_ancestors)[possible].exp()
    torch.testing.assert_close(prob.sum().item(), 1.0)
    return torch.cat(torch.autograd.grad((prob * out.bound[possible]).sum(), (theta, phi)))


def forced_surrogate(
    estimator: FIVO, theta: Tensor, phi: Tensor, frames: Tensor, draws: Tensor, ancestors: Tensor
) -> Tensor:
    """FIVO's surrogate [B] for given draws [T, K, B] and ancestors [T - 1, K, B]."""
    left = list(ancestors)
    estimator.scheme = lambda weight: left.pop(0)
    with Forced({f"z_{t}": draw for t, draw in enumerate(draws)}, {}):
        return estimator.surrogate(*programs(theta, phi), frames)


def expected_gradient(
    estimator: FIVO, x: Tensor, values: Tensor, ancestors: Tensor, company: bool, signal: Callable | None = None
) -> Tensor:
    """The mean over all outcomes of one sequence; with `company`, a second sequence has a fixed outcome."""
    if signal is not None:
        estimator.signal = signal  # type: ignore[method-assign]
    theta, phi = parameters()
    with torch.no_grad():
        out = by_hand(theta, phi, x, values, ancestors, estimator.threshold)
        prob = (out.log_draws + out.log_ancestors).exp()
    frames = torch.stack([x, 0.5 - x], 1) if company else x.unsqueeze(1)
    other = (7 * len(prob)) // 11
    total = torch.zeros(len(theta) + len(phi), dtype=torch.float64)
    for o in prob.nonzero().squeeze(-1).tolist():
        which = [o, other] if company else [o]
        value = forced_surrogate(estimator, theta, phi, frames, values[..., which], ancestors[..., which])
        total += prob[o] * torch.cat(torch.autograd.grad(value[0], (theta, phi)))
    return total
