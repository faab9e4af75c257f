# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""VIMCO: the multi-sample bound with an unbiased, low-variance gradient for discrete draws."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from pyro_sqair.infer.multi_sample import MultiSampleELBO, log_mean_exp

ControlVariate = Literal["geometric", "arithmetic"]


class VIMCO(MultiSampleELBO):
    """Variational inference for Monte Carlo objectives (Mnih & Rezende 2016).

    The signal is s_k = L - c_k, where the control variate c_k is the bound L with log w_k replaced by a guess
    from the other particles. c_k does not depend on particle k, so the gradient is unbiased.

    Args:
        num_particles: K, at least 2, since each particle has the others as baseline.
        max_plate_nesting: see `MultiSampleELBO`.
        control_variate: the guess of log w_k: "geometric" is mean_{l != k} log w_l, "arithmetic" is
            log mean_{l != k} w_l.
        alpha: see `MultiSampleELBO`.

    Raises:
        ValueError: if K < 2, alpha is out of range or the control variate is unknown.
    """

    def __init__(
        self,
        num_particles: int = 5,
        max_plate_nesting: float = math.inf,
        control_variate: ControlVariate = "geometric",
        *,
        alpha: float = 0.0,
    ) -> None:
        if control_variate not in get_args(ControlVariate):
            kinds = get_args(ControlVariate)
            raise ValueError(f"expected control_variate in {kinds}, got {control_variate!r}")
        super().__init__(num_particles, max_plate_nesting, alpha=alpha)
        self.control_variate: ControlVariate = control_variate

    def score_signal(self, log_weight: Tensor) -> Tensor:
        """L - c_k; see `MultiSampleELBO.score_signal`."""
        return log_mean_exp(log_weight) - control_variate(log_weight, self.control_variate)


@torch.no_grad()
def control_variate(log_weight: Tensor, kind: ControlVariate = "geometric") -> Tensor:
    """c_k: the bound with particle k's log weight guessed from the others; 0 if no other has any weight.

    Args:
        log_weight: shape [K, *batch], K >= 2.
        kind: see `VIMCO`.

    Returns:
        Shape [K, *batch], without gradient.
    """
    if kind == "arithmetic":  # L with w_k replaced by the others' mean *is* the log of that mean
        return log_mean_of_others(log_weight)
    num_particles = log_weight.shape[0]
    own = _own(log_weight)
    # Summing the others, not subtracting from the sum of all: a weight of zero (-inf - -inf) would give NaN.
    guess = log_weight.masked_fill(own, 0.0).sum(1, keepdim=True) / (num_particles - 1)  # [k, 1, *batch]
    return _finite(torch.where(own, guess, log_weight).logsumexp(1) - math.log(num_particles))


@torch.no_grad()
def log_mean_of_others(log_weight: Tensor) -> Tensor:
    """log mean_{l != k} exp(log_weight_l): [K, *batch] to [K, *batch]; 0 if no other has any weight."""
    others = log_weight.masked_fill(_own(log_weight), -math.inf)  # [k, l, *batch]
    return _finite(others.logsumexp(1) - math.log(log_weight.shape[0] - 1))


def _own(log_weight: Tensor) -> Tensor:
    own = torch.eye(log_weight.shape[0], dtype=torch.bool, device=log_weight.device)
    return own.reshape(own.shape + (1,) * (log_weight.dim() - 1))  # [k, l, *1]


def _finite(baseline: Tensor) -> Tensor:
    # A baseline of -inf would turn the gradient into NaN. Without one the gradient stays unbiased, for whether
    # the others have weight does not depend on particle k.
    return baseline.masked_fill(baseline == -math.inf, 0.0)
