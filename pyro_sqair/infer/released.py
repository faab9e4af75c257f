# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The score term of the released SQAIR code, which is not the gradient of its bound."""

from __future__ import annotations

import math

from torch import Tensor

from pyro_sqair.infer.multi_sample import MultiSampleELBO
from pyro_sqair.infer.vimco import control_variate


class ReleasedSQAIRSignal(MultiSampleELBO):
    """What the released code of Kosiorek et al. (2018) trains with where their paper says VIMCO. Biased.

    The paper's signal is L - c_k, summed over particles. The code has each particle's own log weight in place of
    the bound, and averages: (log w_k - c_k) / K. c_k falls out of the expectation, and with it the discrete draws of
    the guide get

        E[log w_1 h_1] - E[sum_k v_k h_k]    instead of    E[sum_k (L - v_k) h_k]

    which is the ELBO's score term, each particle for itself, with the bound's -v_k on top: the guide is led away
    from what has weight. Parameters of the model, and reparameterised draws, get the bound's own gradient. It is
    kept to compare with; use `VIMCO`.

    A particle with log w_k = -inf has a signal of -inf here, unlike with the other estimators.

    Args:
        num_particles: K, at least 2, since each particle has the others as baseline.
        max_plate_nesting: see `MultiSampleELBO`.
        alpha: see `MultiSampleELBO`.

    Raises:
        ValueError: if K < 2, or alpha is out of range.
    """

    def __init__(self, num_particles: int = 5, max_plate_nesting: float = math.inf, *, alpha: float = 0.0) -> None:
        super().__init__(num_particles, max_plate_nesting, alpha=alpha)

    def score_signal(self, log_weight: Tensor) -> Tensor:
        """(log w_k - c_k) / K with VIMCO's geometric c_k; see `MultiSampleELBO.score_signal`."""
        return (log_weight - control_variate(log_weight)) / len(log_weight)
