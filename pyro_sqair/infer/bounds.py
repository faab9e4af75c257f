# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Bounds on log p(x) for evaluation: per datum, without gradients, in bounded memory."""

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


@torch.no_grad()
def iwae_bound(
    model: Callable, guide: Callable, *args: Any, num_particles: int, chunk: int | None = None, **kwargs: Any
) -> Tensor:
    """The importance-weighted bound log mean_k p(x, z_k) / q(z_k | x) (Burda et al. 2016, Eq. 8).

    It is below log p(x) in expectation, rises with the number of particles, and tends to log p(x).

    Args:
        model: any Pyro program.
        guide: any Pyro program taking the same arguments.
        *args: passed to both.
        num_particles: K.
        chunk: particles drawn at a time, to bound memory; all of them if not given. The bound is over all K.
        **kwargs: passed to both.

    Returns:
        Shape [*batch], in nats.

    Raises:
        ValueError: if K or chunk is below 1, or data are subsampled anew in every chunk.
    """
    sums = [c.log_weight.logsumexp(0) for c in _chunks(model, guide, args, kwargs, num_particles, chunk)]
    return torch.stack(sums).logsumexp(0) - math.log(num_particles)


@torch.no_grad()
def elbo_terms(
    model: Callable, guide: Callable, *args: Any, num_particles: int, chunk: int | None = None, **kwargs: Any
) -> Terms:
    """The ELBO and its parts, averaged over particles; arguments and errors as in `iwae_bound`."""
    elbo: Tensor | float = 0.0
    reconstruction: Tensor | float = 0.0
    for particles in _chunks(model, guide, args, kwargs, num_particles, chunk):
        elbo = elbo + particles.log_weight.sum(0) / num_particles
        reconstruction = reconstruction + particles.log_likelihood.sum(0) / num_particles
    return Terms(elbo, reconstruction, reconstruction - elbo)  # type: ignore[arg-type]


def effective_sample_size(log_weight: Tensor) -> Tensor:
    """(sum_k w_k)^2 / sum_k w_k^2, between 1 and K (Kong 1992).

    Args:
        log_weight: shape [K, *batch].

    Returns:
        Shape [*batch].
    """
    return 1 / log_weight.softmax(0).square().sum(0)


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
