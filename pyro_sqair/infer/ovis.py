# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""OVIS: the score function with the control variate that is asymptotically optimal in the number of particles."""

from __future__ import annotations

import math

from torch import Tensor

from pyro_sqair.infer.multi_sample import MultiSampleELBO
from pyro_sqair.infer.vimco import log_mean_of_others


class OVIS(MultiSampleELBO):
    """Optimal variance importance sampling, the estimator OVIS~ (Liévin et al. 2020, Eq. 17).

    In the notation of the paper, the total coefficient on h_k is d_k - c_k, where d_k = L - v_k,
    v_k = softmax_k(log w) and

        c_k = log mean_{l != k} w_l - gamma v_k + (1 - gamma) log(1 - 1/K)

    so the total is gamma log(1 - 1/K) - log(1 - v_k) - (1 - gamma) v_k. Differentiating L gives the term -v_k; the
    signal is the rest.

    At gamma = 0 the total is -log(1 - v_k) - v_k. Here c_k does not depend on particle k, so the gradient is unbiased;
    it is optimal if one particle has all the weight. At gamma = 1 the total is log[(1 - 1/K) / (1 - v_k)], which is
    optimal if the weights are even. Then c_k depends on particle k through v_k, which biases the gradient by
    gamma E[sum_k v_k h_k] and lowers its variance.

    At an order alpha above 0, v_k and the first logarithm are those of the Rényi bound: softmax_k(t log w) and
    log mean_{l != k} w_l^t / t with t = 1 - alpha; the constant, which causes no bias, is unchanged.

    Args:
        num_particles: K, at least 2.
        max_plate_nesting: see `MultiSampleELBO`.
        gamma: 0 for no bias, 1 for the lowest variance if the weights are even.
        alpha: see `MultiSampleELBO`.
        vectorize_particles: see `MultiSampleELBO`.

    Raises:
        ValueError: if K < 2, or gamma or alpha is out of range.
    """

    def __init__(
        self,
        num_particles: int = 5,
        max_plate_nesting: float = math.inf,
        gamma: float = 0.0,
        *,
        alpha: float = 0.0,
        vectorize_particles: bool = True,
    ) -> None:
        if not 0 <= gamma <= 1:
            raise ValueError(f"expected 0 <= gamma <= 1, got {gamma}")
        super().__init__(num_particles, max_plate_nesting, alpha=alpha, vectorize_particles=vectorize_particles)
        self.gamma = gamma

    def signal(self, log_weight: Tensor) -> Tensor:
        """gamma log(1 - 1/K) - log(1 - v_k) + gamma v_k at order 0; see `MultiSampleELBO.signal`."""
        temper = 1 - self.alpha
        tempered = temper * log_weight
        # log[(1 - 1/K) / (1 - v_k)] from the sum over the others: 1 - v_k rounds to 0 as v_k tends to 1.
        gain = tempered.logsumexp(0) - math.log(len(log_weight)) - log_mean_of_others(tempered)
        constant = (1 - self.gamma) * math.log1p(-1 / len(log_weight))
        return gain / temper - constant + self.gamma * tempered.softmax(0)
