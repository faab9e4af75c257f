# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Resampling: replaces weighted particles by equally weighted ones, independently for every datum.

A scheme maps normalised weights v, shape [K, *batch], to ancestor indices, int64 of the same shape: the particle that
each new particle copies. The expected number of copies of particle k is K v_k. All schemes invert the cumulative
weights, so a particle of weight zero is never copied. They use PyTorch's global random generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Scheme = Callable[[Tensor], Tensor]


def multinomial(weight: Tensor) -> Tensor:
    """K independent draws: the highest variance; the only scheme whose ancestors are independent."""
    return _inverse_cdf(weight, torch.rand_like(weight))


def stratified(weight: Tensor) -> Tensor:
    """One independent point in each of K equal strata (Kitagawa 1996)."""
    return _inverse_cdf(weight, _strata(weight, torch.rand_like(weight)))


def systematic(weight: Tensor) -> Tensor:
    """The same point in all K equal strata (Carpenter et al. 1999): floor(K v_k) or ceil(K v_k) copies."""
    return _inverse_cdf(weight, _strata(weight, torch.rand_like(weight[:1])))


SCHEMES: dict[str, Scheme] = {
    "multinomial": multinomial,
    "stratified": stratified,
    "systematic": systematic,
}


def scheme(name: str | Scheme) -> Scheme:
    """The scheme of that name; a function is returned unchanged.

    Raises:
        ValueError: if the name is unknown.
    """
    if callable(name):
        return name
    if name not in SCHEMES:
        raise ValueError(f"expected resampling in {tuple(SCHEMES)} or a function, got {name!r}")
    return SCHEMES[name]


def check_threshold(threshold: float) -> None:
    """Checks a threshold, a fraction of K.

    Raises:
        ValueError: if it is out of range.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"expected a threshold from 0 (never resample) to 1 (always), got {threshold}")


class Resampled(NamedTuple):
    """Resampling result."""

    ancestors: Tensor  # int64 [K, *batch]; the particle's own index where the datum was not resampled
    log_weight: Tensor  # [K, *batch]  normalised: -log K where resampled, unchanged elsewhere
    done: Tensor  # bool [*batch]  whether the datum was resampled


def resample(log_weight: Tensor, scheme: Scheme, threshold: float) -> Resampled:
    """Resamples the data whose effective sample size is below a fraction of K (Liu & Chen 1998).

    A datum whose weights are all zero is not resampled. To avoid synchronisation with the device, ancestors are drawn
    for every datum, and used only where needed. The ancestors carry no gradient.

    Args:
        log_weight: normalised over particles, shape [K, *batch].
        scheme: one of this module, or a function with the same signature.
        threshold: the fraction of K; 0 never resamples, and draws nothing; 1 always resamples.
    """
    num_particles = log_weight.shape[0]
    own = torch.arange(num_particles, device=log_weight.device)
    own = own.reshape(-1, *[1] * (log_weight.dim() - 1)).expand_as(log_weight)
    if threshold == 0:
        return Resampled(own, log_weight, torch.zeros_like(log_weight[0], dtype=torch.bool))
    with torch.no_grad():
        possible = possible_data(log_weight)
        weight = torch.where(possible, log_weight.softmax(0), 1 / num_particles)
        done = possible
        if threshold < 1:
            done = done & (1 / weight.square().sum(0) < threshold * num_particles)
        ancestors = torch.where(done, scheme(weight), own)
    return Resampled(ancestors, torch.where(done, -math.log(num_particles), log_weight), done)


def possible_data(log_weight: Tensor) -> Tensor:
    """Whether each datum has a particle of positive weight: [K, *batch] to bool [*batch]."""
    return log_weight.detach().amax(0) > -torch.inf


def _strata(weight: Tensor, offset: Tensor) -> Tensor:
    """The ordered points (k + offset_k) / K."""
    num_particles = weight.shape[0]
    stratum = torch.arange(num_particles, dtype=weight.dtype, device=weight.device)
    return (stratum.reshape(-1, *[1] * (weight.dim() - 1)) + offset) / num_particles


def _inverse_cdf(weight: Tensor, points: Tensor) -> Tensor:
    """The first particle whose cumulative weight exceeds each point of [0, 1)."""
    # Sums computed in parallel may decrease. With cummax, the boundary of a particle of weight zero equals that of
    # the particle before it, so it is never the first to exceed a point.
    total = torch.where(weight > 0, weight.cumsum(0), -torch.inf).cummax(0).values
    # The boundaries end at exactly 1. Points stay below 1, to which rounding may have raised one.
    points = points.clamp(max=1 - torch.finfo(weight.dtype).eps / 2)
    boundaries, points = (t.movedim(0, -1).contiguous() for t in (total / total[-1:], points))
    return torch.searchsorted(boundaries, points, right=True).movedim(-1, 0)
