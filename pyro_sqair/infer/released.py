# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The score term of the released SQAIR code, which is not the gradient of its bound."""

from __future__ import annotations

from torch import Tensor

from pyro_sqair.infer.multi_sample import MultiSampleELBO
from pyro_sqair.infer.vimco import control_variate


class ReleasedSQAIRSignal(MultiSampleELBO):
    """The signal of the released code of Kosiorek et al. (2018), where their paper states VIMCO. Biased.

    The signal in the paper is L - c_k, summed over particles. The code uses each particle's own log weight instead of
    the bound, and averages: (log w_k - c_k) / K. In expectation c_k has no effect, so the discrete draws of the guide
    get

        E[log w_1 h_1] - E[sum_k v_k h_k]    instead of    E[sum_k (L - v_k) h_k]

    This is the score term of the ELBO, together with the -v_k of the bound, which pushes the guide away from particles
    of high weight. Parameters of the model and reparameterised draws get the gradient of the bound. Use it only for
    comparison with `VIMCO`.

    Unlike with the other estimators, the signal of a particle with log w_k = -inf is -inf. K is at least 2, since each
    particle needs the others as its baseline; for the arguments see `MultiSampleELBO`.
    """

    def signal(self, log_weight: Tensor) -> Tensor:
        """(log w_k - c_k) / K with VIMCO's geometric c_k; see `MultiSampleELBO.signal`."""
        temper = 1 - self.alpha
        return (log_weight - control_variate(temper * log_weight) / temper) / len(log_weight)
