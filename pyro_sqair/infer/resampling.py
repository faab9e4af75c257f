# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Resampling: replacing weighted particles by equally weighted ones, for every datum by itself.

A scheme maps normalised weights v, shape [K, *batch], to ancestors, int64 of the same shape: the particle that each
new particle copies. The expected number of copies of particle k is K v_k. All of them invert the cumulative
weights, so a particle of weight zero is never copied. They draw from torch's global generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Scheme = Callable[[Tensor], Tensor]


def multinomial(weight: Tensor) -> Tensor:
    """K independent draws: the most noise, and the only scheme whose ancestors have a simple joint probability."""
    return _inverse_cdf(weight, torch.rand_like(weight))


def stratified(weight: Tensor) -> Tensor:
    """One point in each of K equal strata (Kitagawa 1996)."""
    return _inverse_cdf(weight, _strata(weight, torch.rand_like(weight)))


def systematic(weight: Tensor) -> Tensor:
    """One point for all K equal strata (Carpenter et al. 1999): floor(K v_k) or ceil(K v_k) copies of particle k."""
    return _inverse_cdf(weight, _strata(weight, torch.rand_like(weight[:1])))


def residual(weight: Tensor) -> Tensor:
    """floor(K v_k) copies of particle k, and the rest drawn independently by what is left (Liu & Chen 1998)."""
    num_particles = weight.shape[0]
    copies = (num_particles * weight).floor()
    rest = num_particles * weight - copies
    # Where nothing is left nothing is drawn; ones keep the division from NaN.
    rest = torch.where(copies.sum(0) < num_particles, rest, 1.0)
    drawn = _inverse_cdf(rest, torch.rand_like(weight))
    place = torch.arange(num_particles, dtype=weight.dtype, device=weight.device)
    place = place.reshape(-1, *[1] * (weight.dim() - 1)).expand_as(weight)
    total = copies.cumsum(0)
    kept = _search(total, place).clamp(max=num_particles - 1)
    return torch.where(place < total[-1:], kept, drawn)


SCHEMES: dict[str, Scheme] = {
    "multinomial": multinomial,
    "residual": residual,
    "stratified": stratified,
    "systematic": systematic,
}


def scheme(name: str | Scheme) -> Scheme:
    """Looks a scheme up; a function is taken at its word.

    Raises:
        ValueError: if there is none of that name.
    """
    if callable(name):
        return name
    if name not in SCHEMES:
        raise ValueError(f"expected resampling in {tuple(SCHEMES)} or a function like them, got {name!r}")
    return SCHEMES[name]


def check_threshold(threshold: float) -> None:
    """Checks a share of K.

    Raises:
        ValueError: if it is out of range.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"expected a threshold from 0 (never resample) to 1 (always), got {threshold}")


class Resampled(NamedTuple):
    """What became of weighted particles."""

    ancestors: Tensor  # int64 [K, *batch]; each particle its own where the datum was not resampled
    log_weight: Tensor  # [K, *batch]  normalised: -log K where resampled, as it was elsewhere
    done: Tensor  # bool [*batch]  where resampled


def resample(log_weight: Tensor, scheme: Scheme, threshold: float) -> Resampled:
    """Resamples those data whose effective sample size is below a share of K (Liu & Chen 1998).

    A datum whose weights are all zero is left as it is. Nothing is read from the device: ancestors are drawn for
    every datum, and count where they are needed. No gradient passes through a choice of ancestors.

    Args:
        log_weight: normalised over particles, shape [K, *batch].
        scheme: one of this module, or any function like them.
        threshold: the share of K; 0 never resamples and draws nothing, 1 always does.
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
    """Which data have a particle of positive weight: [K, *batch] to bool [*batch]."""
    return log_weight.detach().amax(0) > -torch.inf


def _strata(weight: Tensor, offset: Tensor) -> Tensor:
    """Points (k + offset_k) / K, in order."""
    num_particles = weight.shape[0]
    stratum = torch.arange(num_particles, dtype=weight.dtype, device=weight.device)
    return (stratum.reshape(-1, *[1] * (weight.dim() - 1)) + offset) / num_particles


def _inverse_cdf(weight: Tensor, points: Tensor) -> Tensor:
    """The first particle whose cumulative weight exceeds each point of [0, 1)."""
    # The maximum is for parallel sums, which need not increase: a particle of weight zero shall end exactly where
    # the one before it does, and so never be the first to exceed a point.
    total = torch.where(weight > 0, weight.cumsum(0), -torch.inf).cummax(0).values
    # They end at exactly 1, and points stay below it, where rounding may have put one.
    last_below_one = 1 - torch.finfo(weight.dtype).eps / 2
    return _search(total / total[-1:], points.clamp(max=last_below_one))


def _search(boundaries: Tensor, points: Tensor) -> Tensor:
    """How many boundaries are at or below each point, along the first dimension."""
    boundaries, points = boundaries.movedim(0, -1).contiguous(), points.movedim(0, -1).contiguous()
    return torch.searchsorted(boundaries, points, right=True).movedim(-1, 0)
