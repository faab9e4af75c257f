# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""DReG: the doubly reparameterised gradient, beside any score term for what cannot be reparameterised."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pyro_sqair.infer.gates import Gates
from pyro_sqair.infer.log_weights import LogWeights
from pyro_sqair.infer.multi_sample import MultiSampleELBO


class DReG(MultiSampleELBO):
    r"""The doubly reparameterised gradient (Tucker et al. 2019, Eq. 8) for the reparameterised draws of a guide.

    Differentiating L with respect to the guide gives each particle -v_k d(log q)/d(phi) at fixed z_k, a score
    function whose signal drowns as K grows. Its expectation can be had by reparameterisation, too. With w_k as a
    function of the values z_k alone, phi held fixed,

        E[v_k d(log q(z_k))/d(phi)] = E[(v_k - v_k^2) d(log w_k)/d(z_k) dz_k/d(phi) + v_k d(h_k)/d(z_k) dz_k/d(phi)]

    where the second term is there because other draws, which are not reparameterised, may depend on z_k; the paper
    has none. Altogether the guide's gradient is

        sum_k v_k^2 d(log w_k)/d(z_k) dz_k/d(phi) + (s_k - v_k) grad(h_k)

    with h_k and s_k as in `MultiSampleELBO`; grad(h_k) goes through the parameters and through z_k. The model gets
    sum_k v_k grad(log p(x, z_k)), z_k fixed, so parameters that model and guide share get the right sum. The
    expectation is the other estimator's, for each of its values of K, order and bias.

    A draw whose log q is masked in the weight, even late or in part, or scaled by c, has only that multiple mu of
    d(log q)/d(phi) to replace: the gradient through it is (1 - mu) times the other estimator's plus mu times the
    above. Point masses, partly reparameterised draws (rejection) and draws that particles share stay with the other
    estimator's. A draw counts as masked where its log-probability is exactly zero; an element of an event that a
    distribution of your own leaves out is not noticed: use `.mask(...).to_event(...)` for that.

    Where the guide is the exact posterior the gradient of the reparameterised draws vanishes sample by sample
    (with K = 1 this is Roeder et al. 2017). It takes one more backward pass than the other estimator, with respect to
    draws only; two where masks or scales may be. Second derivatives are not those of the expectation. Log q is taken of
    the value alone, so normalising flows need an inverse (Pyro's planar and radial flows have none).

    Args:
        estimator: whose score term the draws that are not reparameterised get, as in `DReG(VIMCO(5))`, and which
            sets K, max_plate_nesting and the order. A guide without such draws may take any.

    Raises:
        ValueError: if the estimator has a gradient of its own, not that of a bound plus a score term.
    """

    min_particles = 1

    def __init__(self, estimator: MultiSampleELBO) -> None:
        if not isinstance(estimator, MultiSampleELBO) or type(estimator)._estimate is not MultiSampleELBO._estimate:
            raise ValueError(
                f"expected an estimator of a bound's gradient, such as VIMCO(5), got {type(estimator).__name__}"
            )
        self.estimator = estimator
        super().__init__(estimator.num_particles, estimator.max_plate_nesting, alpha=estimator.alpha)

    @property
    def alpha(self) -> float:
        """Order of the bound: the estimator's."""
        return self.estimator.alpha

    @alpha.setter
    def alpha(self, alpha: float) -> None:
        self.estimator.alpha = alpha

    def score_signal(self, log_weight: Tensor) -> Tensor:
        """The estimator's."""
        return self.estimator.score_signal(log_weight)

    def signal(self, log_weight: Tensor) -> Tensor:
        """The estimator's."""
        return self.estimator.signal(log_weight)

    def bound(self, log_weight: Tensor) -> Tensor:
        """The estimator's."""
        return self.estimator.bound(log_weight)

    def _surrogate(self, particles: LogWeights) -> Tensor:
        return self.estimator._surrogate(particles)

    def _estimate(self, model: Any, guide: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[Tensor, float]:
        with Gates() as gates:
            particles = self._log_weights(model, guide, args, kwargs)
        surrogate = self._surrogate(particles)
        if gates.draws:
            correction = self._correction(particles)
            surrogate = surrogate + gates.close(surrogate, correction, particles.scale)
        return surrogate, particles.scale

    def _correction(self, particles: LogWeights) -> Tensor:
        """What a draw's share of -v_k log q is worth, seen from the draw: subtract it to replace that share.

        The order's t = 1 - alpha comes from d(v_k)/d(log w_k) = t v_k (1 - v_k).
        """
        log_weight, temper = particles.log_weight, 1 - self.alpha
        v = (temper * log_weight.detach()).softmax(0)
        worth = temper * (1 - v) * log_weight
        if particles.score is not None:
            worth = worth + particles.score
        return (v * worth).sum()
