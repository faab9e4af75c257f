# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Bounds on log p(x) for evaluation: per datum, with standard errors, without gradients, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_sqair.infer.log_weights import LogWeights, log_weights
from pyro_sqair.infer.plates import guess_max_plate_nesting


class Terms(NamedTuple):
    """The ELBO of each datum and its two parts, in nats: elbo = reconstruction - kl."""

    elbo: Tensor  # [*batch]  E_q[log p(x, z) - log q(z | x)]
    reconstruction: Tensor  # [*batch]  E_q[log p(x | z)]
    kl: Tensor  # [*batch]  KL(q(z | x) || p(z)), estimated from the same draws


class DatumEstimate(NamedTuple):
    """A Monte Carlo estimate for each datum, in nats."""

    value: Tensor  # [*batch]
    error: Tensor  # [*batch]  its standard error over draws of K particles; NaN for K = 1 or an infinite value


class DataMean(NamedTuple):
    """A mean over data, in nats."""

    mean: float
    standard_error: float  # over data *and* draws: how far the mean of other such data may lie; NaN for one datum
    monte_carlo_error: float  # over draws alone: how far another evaluation of these data may lie


class Bounds(NamedTuple):
    """What K particles say of each datum; reconstruction - kl = elbo <= iwae in expectation.

    The error of `iwae` is the delta method's, see `evaluate_bounds`. It cannot exceed one nat, and is to be
    believed only where the effective sample size is well above 1.
    """

    iwae: DatumEstimate  # log mean_k w_k
    elbo: DatumEstimate  # mean_k log w_k
    reconstruction: DatumEstimate  # mean_k log p(x | z_k)
    kl: DatumEstimate  # mean_k log q(z_k | x) / p(z_k)
    effective_sample_size: Tensor  # [*batch]  between 1 and K; NaN where every weight is zero


@torch.no_grad()
def evaluate_bounds(
    model: Callable, guide: Callable, *args: Any, num_particles: int, chunk: int | None = None, **kwargs: Any
) -> Bounds:
    """All bounds and their parts from one pass over K particles.

    With v_k = w_k / sum_l w_l, the standard error of the importance-weighted bound log mean_k w_k (Burda et al.
    2016, Eq. 8) is, by the delta method from the sample variance of the weights,

        std(w) / (mean(w) sqrt(K)) = sqrt(K / (K - 1) * (sum_k v_k^2 - 1 / K))

    The bound is below log p(x) in expectation, rises with K and tends to log p(x).

    Args:
        model: any Pyro program.
        guide: any Pyro program taking the same arguments.
        *args: passed to both.
        num_particles: K.
        chunk: particles drawn at a time, to bound memory; all of them if not given. The bounds are over all K.
        **kwargs: passed to both.

    Raises:
        ValueError: if K or chunk is below 1, or data are subsampled anew in every chunk.
    """
    chunks = _chunks(model, guide, args, kwargs, num_particles, chunk)
    first = next(chunks)
    weights, moments = _WeightSums.of(first), _Moments.of(first)
    for particles in chunks:
        weights, moments = weights.joined(_WeightSums.of(particles)), moments.joined(_Moments.of(particles))
    dtype = first.log_weight.dtype
    ess = (2 * weights.first - weights.second).exp()
    unseen = math.nan if num_particles == 1 else 1 / (num_particles - 1)
    iwae_error = ((num_particles / ess - 1).clamp(min=0) * unseen).sqrt()  # rounding may put K / ess below 1
    errors = (moments.squares / num_particles * unseen).sqrt()
    log_w, log_likelihood, log_ratio = (
        DatumEstimate(value.to(dtype), error.to(dtype)) for value, error in zip(moments.mean, errors, strict=True)
    )
    iwae = DatumEstimate((weights.first - math.log(num_particles)).to(dtype), iwae_error.to(dtype))
    return Bounds(iwae, log_w, log_likelihood, log_ratio, ess.to(dtype))


def iwae_bound(
    model: Callable, guide: Callable, *args: Any, num_particles: int, chunk: int | None = None, **kwargs: Any
) -> Tensor:
    """The importance-weighted bound alone, shape [*batch]; arguments and errors as in `evaluate_bounds`."""
    return evaluate_bounds(model, guide, *args, num_particles=num_particles, chunk=chunk, **kwargs).iwae.value


def elbo_terms(
    model: Callable, guide: Callable, *args: Any, num_particles: int, chunk: int | None = None, **kwargs: Any
) -> Terms:
    """The ELBO and its parts, averaged over particles; arguments and errors as in `evaluate_bounds`."""
    bounds = evaluate_bounds(model, guide, *args, num_particles=num_particles, chunk=chunk, **kwargs)
    return Terms(bounds.elbo.value, bounds.reconstruction.value, bounds.kl.value)


def mean_over_data(*batches: DatumEstimate) -> DataMean:
    """The mean over all data of some batches, in double precision.

    The standard error takes the data as independent draws from where such data come from. The noise of each
    datum's own estimate is part of the spread between data, and so is in it already.

    Raises:
        ValueError: if there is no datum.
    """
    values = torch.cat([batch.value.flatten().double() for batch in batches]) if batches else torch.empty(0)
    if not len(values):
        raise ValueError("expected at least one datum, got none")
    noise = torch.cat([batch.error.flatten().double() for batch in batches])
    spread = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return DataMean(values.mean().item(), spread, noise.norm().item() / len(values))


def effective_sample_size(log_weight: Tensor) -> Tensor:
    """(sum_k w_k)^2 / sum_k w_k^2, between 1 and K (Kong 1992).

    Args:
        log_weight: shape [K, *batch].

    Returns:
        Shape [*batch].
    """
    return 1 / log_weight.softmax(0).square().sum(0)


class _WeightSums(NamedTuple):
    """Of the weights seen so far, in double: log weights are thousands of nats, and their differences count."""

    first: Tensor  # [*batch]  log sum_k w_k
    second: Tensor  # [*batch]  log sum_k w_k^2

    @classmethod
    def of(cls, particles: LogWeights) -> _WeightSums:
        log_weight = particles.log_weight.double()
        return cls(log_weight.logsumexp(0), (2 * log_weight).logsumexp(0))

    def joined(self, other: _WeightSums) -> _WeightSums:
        return _WeightSums(self.first.logaddexp(other.first), self.second.logaddexp(other.second))


class _Moments(NamedTuple):
    """Of log w, log p(x | z) and log q(z | x) / p(z) so far, in double, merged pairwise (Chan et al. 1983)."""

    number: int
    mean: Tensor  # [3, *batch]
    squares: Tensor  # [3, *batch]  sum of squared distances to the mean

    @classmethod
    def of(cls, particles: LogWeights) -> _Moments:
        # Not log p(x | z) - log w: where both are -inf the ratio of q to p is finite all the same.
        log_ratio = particles.log_q.double() - particles.log_prior.double()
        values = torch.stack((particles.log_weight.double(), particles.log_likelihood.double(), log_ratio))
        mean = values.mean(1)
        return cls(values.shape[1], mean, (values - mean[:, None]).square().sum(1))

    def joined(self, other: _Moments) -> _Moments:
        number = self.number + other.number
        step = other.mean - self.mean
        squares = self.squares + other.squares + step.square() * (self.number * other.number / number)
        # Not mean + step * ...: that would make NaN of two chunks that are both -inf.
        return _Moments(number, (self.number * self.mean + other.number * other.mean) / number, squares)


def _chunks(
    model: Callable,
    guide: Callable,
    args: tuple,
    kwargs: dict[str, Any],
    num_particles: int,
    chunk: int | None,
) -> Iterator[LogWeights]:
    chunk = num_particles if chunk is None else chunk
    if num_particles < 1 or chunk < 1:
        raise ValueError(f"expected num_particles and chunk >= 1, got {num_particles} and {chunk}")
    max_plate_nesting = guess_max_plate_nesting(model, guide, args, kwargs)
    for start in range(0, num_particles, chunk):
        particles = log_weights(
            model,
            guide,
            args,
            kwargs,
            num_particles=min(chunk, num_particles - start),
            max_plate_nesting=max_plate_nesting,
            with_score=False,
        )
        if particles.scale != 1.0 and chunk < num_particles:
            raise ValueError(
                f"expected the same data in every chunk, got a plate that subsamples "
                f"(scale {particles.scale:g}). Evaluate on explicit batches, or leave chunk unset."
            )
        yield particles
