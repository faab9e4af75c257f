# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Base class of the multi-sample estimators: the bound, its loss, and a score term that subclasses define."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import ELBO
from pyro.infer.util import is_validation_enabled, torch_backward
from torch import Tensor

from pyro_sqair.infer.log_weights import LogWeights, log_weights
from pyro_sqair.infer.particles import compare_particles
from pyro_sqair.infer.plates import guess_max_plate_nesting


class SurrogateELBO(ELBO):
    """An objective that is defined by a surrogate for each datum.

    Use it with `pyro.infer.SVI`, or as `objective = Estimator(5)(model, guide)`, a module whose call returns the loss.
    """

    _checked: tuple[Any, Any] | None = None  # the last pair that `check_particles` accepted

    def surrogate(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Shape [*batch]: its value is each datum's bound L, its gradient the estimate of the bound's."""
        return self._estimate(model, guide, args, kwargs)[0]

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the sum of the bounds of all data, a scalar to call `backward` on."""
        surrogate, scale = self._estimate(model, guide, args, kwargs)
        return -scale * surrogate.sum()

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """The loss, detached; its gradient is added to the parameters'."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        torch_backward(loss, retain_graph=self.retain_graph)
        return loss.detach()

    def _estimate(self, model: Callable, guide: Callable, args: tuple, kwargs: dict[str, Any]) -> tuple[Tensor, float]:
        """The surrogate of each datum, and the factor on the sum over data."""
        raise NotImplementedError

    def _get_trace(self, model: Callable, guide: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no trace of its own; see pyro_sqair.infer.log_weights")


class MultiSampleELBO(SurrogateELBO):
    """The importance-weighted bound of every datum, L = log mean_k w_k, w_k = p(x, z_k) / q(z_k | x).

    The gradient of `differentiable_loss` is minus that of

        L + sum_k stop_gradient(s_k) h_k

    where h_k is log q of the draws of particle k that are not reparameterised. The signal s_k, the method `signal` of a
    subclass, defines the estimator. Gradients pass through reparameterised draws.

    It works for any model and guide; if there is a batch plate, every site must be inside it.

    At an order alpha above 0 the bound is Rényi's (Li & Turner 2016, Eq. 8), L = log mean_k w_k^t / t with
    t = 1 - alpha: the mean of the log weights as alpha tends to 1, and the bound above at 0. Its gradient is
    estimated the same way, without bias where the estimator has none at order 0.

    Args:
        num_particles: K.
        max_plate_nesting: number of dimensions of the plates of model and guide; found by a trial run if not given.
        alpha: order of the bound, 0 <= alpha < 1; may be changed between steps, as by `RenyiWarmup`.
        vectorize_particles: whether to run the programs once, in a plate of K particles left of all others, which adds
            a dimension on the left of every value; or K times, on the same subsample of the data, for programs that
            are written for one particle at a time.

    Raises:
        ValueError: if K is not an integer or is below `min_particles`, or alpha is out of range; when it runs for the
            first time under Pyro's validation, if `check_particles` finds that the programs cannot be vectorised.
    """

    min_particles = 2
    """The smallest valid K."""

    def __init__(
        self,
        num_particles: int = 5,
        max_plate_nesting: float = math.inf,
        *,
        alpha: float = 0.0,
        vectorize_particles: bool = True,
    ) -> None:
        if not isinstance(num_particles, int) or num_particles < self.min_particles:
            name, least = type(self).__name__, self.min_particles
            raise ValueError(f"expected an integer num_particles >= {least} for {name}, got {num_particles}")
        super().__init__(num_particles=num_particles, max_plate_nesting=max_plate_nesting)
        self.alpha = alpha
        self.vectorize_particles = vectorize_particles  # after Pyro's __init__, where True changes max_plate_nesting

    @property
    def alpha(self) -> float:
        """Order of the bound."""
        return self._alpha

    @alpha.setter
    def alpha(self, alpha: float) -> None:
        if not 0 <= alpha < 1:
            raise ValueError(
                f"expected 0 <= alpha < 1, got {alpha}. At 1, the bound is the ELBO: use Pyro's estimators."
            )
        self._alpha = alpha

    def signal(self, log_weight: Tensor) -> Tensor:
        """s_k at order `alpha`: [K, *batch] to [K, *batch], without gradient.

        It is the coefficient on h_k besides the -softmax_k(t log w) that differentiating `bound` gives.
        """
        raise NotImplementedError(f"{type(self).__name__} has no score signal")

    def bound(self, log_weight: Tensor) -> Tensor:
        """The bound at order `alpha`, log mean_k w_k^t / t: [K, *batch] to [*batch]."""
        temper = 1 - self.alpha
        return log_mean_exp(temper * log_weight) / temper

    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Minus the sum of the bounds of all data, as a number and without gradients."""
        with torch.no_grad():
            particles = self._log_weights(model, guide, args, kwargs, with_score=False)
            return (-particles.scale * self.bound(particles.log_weight)).sum().item()

    def _estimate(self, model: Callable, guide: Callable, args: tuple, kwargs: dict[str, Any]) -> tuple[Tensor, float]:
        particles = self._log_weights(model, guide, args, kwargs)
        return self._surrogate(particles), particles.scale

    def _surrogate(self, particles: LogWeights) -> Tensor:
        bound = self.bound(particles.log_weight)
        if particles.score is None:
            return bound
        signal = self.signal(particles.log_weight.detach())
        # Subtracting the detached score removes its value, but not its gradient.
        return bound + (signal * (particles.score - particles.score.detach())).sum(0)

    def _log_weights(
        self, model: Callable, guide: Callable, args: tuple, kwargs: dict[str, Any], with_score: bool = True
    ) -> LogWeights:
        if self.max_plate_nesting == math.inf:
            self.max_plate_nesting = guess_max_plate_nesting(model, guide, args, kwargs)
        if self.vectorize_particles and self._checked != (model, guide) and is_validation_enabled():
            compare_particles(model, guide, args, kwargs, int(self.max_plate_nesting))
            self._checked = model, guide
        return log_weights(
            model,
            guide,
            args,
            kwargs,
            num_particles=self.num_particles,
            max_plate_nesting=int(self.max_plate_nesting),
            with_score=with_score,
            check_possible=True,
            vectorize_particles=self.vectorize_particles,
        )


def log_mean_exp(log_weight: Tensor) -> Tensor:
    """log mean_k exp(log_weight): [K, *batch] to [*batch]."""
    return log_weight.logsumexp(0) - math.log(log_weight.shape[0])
