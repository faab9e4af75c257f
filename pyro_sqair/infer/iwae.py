# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""IWAE without a score term, like Pyro's RenyiELBO: discrete draws get no gradient. For comparison only."""

from __future__ import annotations

from torch import Tensor

from pyro_sqair.infer.log_weights import LogWeights
from pyro_sqair.infer.multi_sample import MultiSampleELBO


class IWAEWithoutScore(MultiSampleELBO):
    """The importance-weighted autoencoder (Burda et al. 2016), whose gradient is correct only without discrete draws.

    The log q of draws that are not reparameterised contributes to the value of the bound, but not to its gradient.
    This is what `pyro.infer.RenyiELBO(alpha=0)` does, and why a guide with discrete sites does not learn with it
    (Pyro's issue 3289). Pyro's estimator has a score term at orders above 0; this one has none at any order. If all
    draws are reparameterised, the gradient is unbiased and equal to that of `VIMCO`.

    Use it only for comparison. K may be 1: without discrete draws this is the ELBO.
    """

    min_particles = 1

    def signal(self, log_weight: Tensor) -> Tensor:
        """v_k at order `alpha`, so that the total coefficient is 0; see `MultiSampleELBO.signal`."""
        return ((1 - self.alpha) * log_weight).softmax(0)

    def _surrogate(self, particles: LogWeights) -> Tensor:
        log_q = particles.scored_log_q
        if log_q is None:
            return self.bound(particles.log_weight)
        # Not by `signal`, whose score terms are neither masked nor scaled, unlike log q in the weight.
        return self.bound(particles.log_weight + log_q - log_q.detach())
