# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""DReG: the doubly reparameterised gradient, combined with any score term for discrete draws."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pyro_sqair.infer.gates import Gates
from pyro_sqair.infer.log_weights import LogWeights
from pyro_sqair.infer.multi_sample import MultiSampleELBO


class DReG(MultiSampleELBO):
    r"""The doubly reparameterised gradient (Tucker et al. 2019, Eq. 8) for the reparameterised draws of a guide.

    Differentiating L with respect to the guide gives each particle -v_k d(log q)/d(phi) at fixed z_k, a score
    function whose signal-to-noise ratio falls as K grows. Reparameterisation gives the same expectation. With w_k as
    a function of the values z_k alone, phi held fixed,

        E[v_k d(log q(z_k))/d(phi)] = E[(v_k - v_k^2) d(log w_k)/d(z_k) dz_k/d(phi) + v_k d(h_k)/d(z_k) dz_k/d(phi)]

    The second term, which the paper does not have, is needed because draws that are not reparameterised may depend on
    z_k. In total the gradient of the guide is

        sum_k v_k^2 d(log w_k)/d(z_k) dz_k/d(phi) + (s_k - v_k) grad(h_k)

    with h_k and s_k as in `MultiSampleELBO`; grad(h_k) includes the paths through the parameters and through z_k. The
    gradient of the model is sum_k v_k grad(log p(x, z_k)) at fixed z_k, so parameters shared by model and guide get
    the correct sum. The expectation equals that of the wrapped estimator for every K and order, including its bias.

    If the weight contains mu times the log q of a draw (a mask, even a later or partial one, or a scale), only
    mu d(log q)/d(phi) is replaced: the gradient through the draw is (1 - mu) times that of the wrapped estimator, plus
    mu times the above. Point masses, partly reparameterised draws (rejection sampling) and draws shared by the
    particles keep the gradient of the wrapped estimator. A draw counts as masked where its log-probability is exactly
    zero. Event elements that a custom distribution leaves out are not detected: use `.mask(...).to_event(...)`.

    If the guide is the exact posterior, the gradient of the reparameterised draws is zero for every sample (with K = 1
    this is Roeder et al. 2017). Two more backward passes are needed than for the wrapped estimator, with respect to
    the draws only. Second derivatives are not supported. Log q is a function of the value alone, so normalising flows
    need an inverse (Pyro's planar and radial flows have none).

    Args:
        estimator: provides the score term of draws that are not reparameterised, as in `DReG(VIMCO(5))`, and sets K,
            max_plate_nesting, the order and vectorize_particles. For a guide without such draws, any estimator gives
            the same result.

    Raises:
        ValueError: if the estimator's gradient is not that of a bound plus a score term.
    """

    min_particles = 1

    def __init__(self, estimator: MultiSampleELBO) -> None:
        if not isinstance(estimator, MultiSampleELBO) or type(estimator)._estimate is not MultiSampleELBO._estimate:
            raise ValueError(
                f"expected an estimator of a bound's gradient, such as VIMCO(5), got {type(estimator).__name__}"
            )
        self.estimator = estimator
        super().__init__(
            estimator.num_particles,
            estimator.max_plate_nesting,
            alpha=estimator.alpha,
            vectorize_particles=estimator.vectorize_particles,
        )

    @property
    def alpha(self) -> float:
        """Order of the bound of the wrapped estimator."""
        return self.estimator.alpha

    @alpha.setter
    def alpha(self, alpha: float) -> None:
        self.estimator.alpha = alpha

    def signal(self, log_weight: Tensor) -> Tensor:
        """That of the wrapped estimator."""
        return self.estimator.signal(log_weight)

    def _estimate(self, model: Any, guide: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[Tensor, float]:
        with Gates() as gates:
            particles = self._log_weights(model, guide, args, kwargs)
        surrogate = self.estimator._surrogate(particles)
        if gates.draws:
            correction = self._correction(particles)
            surrogate = surrogate + gates.close(surrogate, correction, particles.scale)
        return surrogate, particles.scale

    def _correction(self, particles: LogWeights) -> Tensor:
        """Its gradient with respect to a draw is what mu = 1 subtracts from the wrapped estimator's gradient.

        The order's t = 1 - alpha comes from d(v_k)/d(log w_k) = t v_k (1 - v_k).
        """
        log_weight, temper = particles.log_weight, 1 - self.alpha
        v = (temper * log_weight.detach()).softmax(0)
        terms = temper * (1 - v) * log_weight
        if particles.score is not None:
            terms = terms + particles.score
        return (v * terms).sum()
