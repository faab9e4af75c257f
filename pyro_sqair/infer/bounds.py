# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Bounds on log p(x) for evaluation: per datum, with standard errors, without gradients, in chunks of particles."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pyro_sqair.infer.log_weights import log_weights
from pyro_sqair.infer.multi_sample import log_mean_exp
from pyro_sqair.infer.particles import check_particles
from pyro_sqair.infer.plates import guess_max_plate_nesting


class DatumEstimate(NamedTuple):
    """A Monte Carlo estimate for each datum, in nats."""

    value: Tensor  # [*batch]
    error: Tensor  # [*batch]  its standard error over draws of K particles; NaN for K = 1 or an infinite value


class DataMean(NamedTuple):
    """A mean over data, in nats."""

    mean: float
    standard_error: float  # over data and draws: the variation between datasets; NaN for one datum
    monte_carlo_error: float  # over draws alone: the variation between evaluations of the same data


class Bounds(NamedTuple):
    """Estimates from K particles of each datum, in double precision; reconstruction - kl = elbo <= iwae in expectation.

    The error of `iwae` is that of the delta method, see `evaluate_bounds`. It is at most one nat, and reliable only
    if the effective sample size is well above 1.
    """

    iwae: DatumEstimate  # log mean_k w_k
    elbo: DatumEstimate  # mean_k log w_k
    reconstruction: DatumEstimate  # mean_k log p(x | z_k)
    kl: DatumEstimate  # mean_k log q(z_k | x) / p(z_k)
    effective_sample_size: Tensor  # [*batch]  between 1 and K; NaN if every weight is zero
    log_weight: Tensor  # [K, *batch]  log w_k


@torch.no_grad()
def evaluate_bounds(
    model: Callable,
    guide: Callable,
    *args: Any,
    num_particles: int,
    chunk: int | None = None,
    vectorize_particles: bool = True,
    **kwargs: Any,
) -> Bounds:
    """Estimates all bounds and their parts from the same K particles.

    With v_k = w_k / sum_l w_l, the standard error of the importance-weighted bound log mean_k w_k (Burda et al.
    2016, Eq. 8) is, by the delta method from the sample variance of the weights,

        std(w) / (mean(w) sqrt(K)) = sqrt(K / (K - 1) * (sum_k v_k^2 - 1 / K))

    In expectation the bound is below log p(x), rises with K and tends to log p(x).

    Args:
        model: any Pyro program.
        guide: any Pyro program that takes the same arguments.
        *args: passed to both.
        num_particles: K.
        chunk: number of particles drawn at a time, to bound memory; K if not given. The bounds are over all K
            particles, of which three numbers per datum are kept.
        vectorize_particles: see `MultiSampleELBO`.
        **kwargs: passed to both.

    Raises:
        ValueError: if K or chunk is below 1, or if each chunk would draw its own subsample of the data; under Pyro's
            validation, also if `check_particles` finds that the programs cannot be vectorised.
    """
    chunk = num_particles if chunk is None else chunk
    if num_particles < 1 or chunk < 1:
        raise ValueError(f"expected num_particles and chunk >= 1, got {num_particles} and {chunk}")
    if vectorize_particles and is_validation_enabled():
        check_particles(model, guide, *args, **kwargs)
    return unchecked_bounds(model, guide, args, kwargs, num_particles, chunk, vectorize_particles)


def unchecked_bounds(
    model: Callable,
    guide: Callable,
    args: tuple,
    kwargs: dict[str, Any],
    num_particles: int,
    chunk: int,
    vectorize_particles: bool = True,
) -> Bounds:
    """`evaluate_bounds` without its checks of the arguments and of the programs; call it without gradients."""
    max_plate_nesting = guess_max_plate_nesting(model, guide, args, kwargs)
    chunks = []
    for start in range(0, num_particles, chunk):
        size = min(chunk, num_particles - start)
        particles = log_weights(
            model,
            guide,
            args,
            kwargs,
            num_particles=size,
            max_plate_nesting=max_plate_nesting,
            with_score=False,
            vectorize_particles=vectorize_particles,
        )
        if particles.scale != 1.0 and size < num_particles:
            raise ValueError(
                f"expected the same data in every chunk, got a plate that subsamples "
                f"(scale {particles.scale:g}). Evaluate on explicit batches, or leave chunk unset."
            )
        # Not log p(x | z) - log w: where both are -inf, the ratio of q to p is still finite.
        log_ratio = particles.log_q - particles.log_prior
        chunks.append(torch.stack((particles.log_weight, particles.log_likelihood, log_ratio)))
    # Double precision: log weights are thousands of nats, and their differences matter.
    terms = torch.cat(chunks, 1).double()  # [3, K, *batch]
    log_weight = terms[0]
    ess = effective_sample_size(log_weight)
    unseen = math.nan if num_particles == 1 else 1 / (num_particles - 1)
    iwae_error = ((num_particles / ess - 1).clamp(min=0) * unseen).sqrt()  # K / ess may round to less than 1
    iwae = DatumEstimate(log_mean_exp(log_weight), iwae_error)
    errors = (terms.var(1, correction=0) * unseen).sqrt()
    elbo, reconstruction, kl = (DatumEstimate(*pair) for pair in zip(terms.mean(1), errors, strict=True))
    return Bounds(iwae, elbo, reconstruction, kl, ess, log_weight)


def mean_over_data(*batches: DatumEstimate) -> DataMean:
    """The mean over all data of some batches, in double precision.

    The standard error treats the data as independent draws from their distribution. It includes the Monte Carlo
    error, since the noise of each estimate contributes to the variance between data.

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
