# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""VIMCO: the multi-sample bound with an unbiased, low-variance gradient for discrete draws."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from pyro_sqair.infer.multi_sample import MultiSampleELBO

ControlVariate = Literal["geometric", "arithmetic"]


class VIMCO(MultiSampleELBO):
    """Variational inference for Monte Carlo objectives (Mnih & Rezende 2016).

    The signal is s_k = L - c_k, where the control variate c_k is the bound L with log w_k replaced by a prediction
    from the other particles. c_k does not depend on particle k, so the gradient is unbiased.

    Args:
        num_particles: K, at least 2, since each particle needs the others as its baseline.
        max_plate_nesting: see `MultiSampleELBO`.
        control_variate: the prediction of log w_k: "geometric" is mean_{l != k} log w_l, "arithmetic" is
            log mean_{l != k} w_l.
        alpha: see `MultiSampleELBO`.
        vectorize_particles: see `MultiSampleELBO`.

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
        vectorize_particles: bool = True,
    ) -> None:
        if control_variate not in get_args(ControlVariate):
            kinds = get_args(ControlVariate)
            raise ValueError(f"expected control_variate in {kinds}, got {control_variate!r}")
        super().__init__(num_particles, max_plate_nesting, alpha=alpha, vectorize_particles=vectorize_particles)
        self.control_variate: ControlVariate = control_variate

    def signal(self, log_weight: Tensor) -> Tensor:
        """L - c_k; see `MultiSampleELBO.signal`."""
        temper = 1 - self.alpha
        return self.bound(log_weight) - control_variate(temper * log_weight, self.control_variate) / temper


@torch.no_grad()
def control_variate(log_weight: Tensor, kind: ControlVariate = "geometric", log_prior: Tensor | None = None) -> Tensor:
    """c_k: the bound with particle k's log weight predicted from the others; 0 if all others have weight zero.

    Args:
        log_weight: shape [K, *batch], K >= 2.
        kind: see `VIMCO`.
        log_prior: log of the factor of each weight in the bound, shape [K, *batch]; -log K if not given.

    Returns:
        Shape [K, *batch], without gradient.
    """
    num_particles, own = len(log_weight), _own(log_weight)
    if kind == "arithmetic":
        others = log_weight.masked_fill(own, -math.inf)  # [k, l, *batch]
        predicted = others.logsumexp(1, keepdim=True) - math.log(num_particles - 1)
    else:
        # A sum over the others. Subtracting log w_k from the sum of all would give NaN for a weight of zero.
        predicted = log_weight.masked_fill(own, 0.0).sum(1, keepdim=True) / (num_particles - 1)
    swapped = torch.where(own, predicted, log_weight)  # [k, l, *batch]
    return _finite((swapped + (-math.log(num_particles) if log_prior is None else log_prior)).logsumexp(1))


@torch.no_grad()
def log_mean_of_others(log_weight: Tensor) -> Tensor:
    """log mean_{l != k} exp(log_weight_l): [K, *batch] to [K, *batch]; 0 if all others have weight zero."""
    others = log_weight.masked_fill(_own(log_weight), -math.inf)  # [k, l, *batch]
    return _finite(others.logsumexp(1) - math.log(log_weight.shape[0] - 1))


def _own(log_weight: Tensor) -> Tensor:
    own = torch.eye(log_weight.shape[0], dtype=torch.bool, device=log_weight.device)
    return own.reshape(own.shape + (1,) * (log_weight.dim() - 1))  # [k, l, *1]


def _finite(baseline: Tensor) -> Tensor:
    # A baseline of -inf would make the gradient NaN. Replacing it by 0 keeps the gradient unbiased, since the weights
    # of the others do not depend on particle k.
    return baseline.masked_fill(baseline == -math.inf, 0.0)
