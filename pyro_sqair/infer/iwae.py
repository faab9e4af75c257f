# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""IWAE without a score term, as Pyro's RenyiELBO has it: discrete draws get no gradient. The negative control."""

from __future__ import annotations

from torch import Tensor

from pyro_sqair.infer.log_weights import LogWeights
from pyro_sqair.infer.multi_sample import MultiSampleELBO


class IWAEWithoutScore(MultiSampleELBO):
    """The importance-weighted autoencoder (Burda et al. 2016), whose gradient is right only without discrete draws.

    Draws that are not reparameterised teach the guide nothing: their log q counts in the value of the bound, and
    is a constant in its gradient. This is what `pyro.infer.RenyiELBO(alpha=0)` does (at any order here; Pyro's has
    a score term above 0), and why a guide with discrete sites does not learn with it (Pyro's issue 3289). If all
    draws are reparameterised the gradient is unbiased, and equal to `VIMCO`'s.

    It is kept to compare with. Its K may be 1: then, without discrete draws, it is the ELBO.
    """

    min_particles = 1

    def score_signal(self, log_weight: Tensor) -> Tensor:
        """v_k, which cancels the -v_k from differentiating L (up to masks); see `MultiSampleELBO.score_signal`."""
        return log_weight.softmax(0)

    def signal(self, log_weight: Tensor) -> Tensor:
        """The same at order `alpha`, where differentiating the bound gives -softmax_k(t log w), too."""
        return self.score_signal((1 - self.alpha) * log_weight)

    def _surrogate(self, particles: LogWeights) -> Tensor:
        log_q = particles.scored_log_q
        if log_q is None:
            return self.bound(particles.log_weight)
        # The signal multiplies what masks have not touched; this holds for masked and scaled draws as well.
        return self.bound(particles.log_weight + log_q - log_q.detach())
