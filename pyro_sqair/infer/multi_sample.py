# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""What the multi-sample estimators have in common: the bound, its loss, and a score term of their choice."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import ELBO
from pyro.infer.util import torch_backward
from torch import Tensor

from pyro_sqair.infer.log_weights import LogWeights, log_weights
from pyro_sqair.infer.plates import guess_max_plate_nesting


class MultiSampleELBO(ELBO):
    """The importance-weighted bound of every datum, L = log mean_k w_k, w_k = p(x, z_k) / q(z_k | x).

    The gradient of `differentiable_loss` is minus that of

        L + sum_k stop_gradient(s_k) h_k

    where h_k is log q of the draws of particle k that are not reparameterised, and the signal s_k, a subclass's
    `score_signal`, tells the estimators apart. Draws that are reparameterised are differentiated through.

    Use it with `pyro.infer.SVI`, or as `objective = Estimator(5)(model, guide)`, a module whose call returns the
    loss. Works for any model and guide; every site has to lie inside the batch plate, if there is one.

    Args:
        num_particles: K; drawn side by side in a plate left of all others.
        max_plate_nesting: dimensions that plates of model and guide take; if not given, found by running both
            once.

    Raises:
        ValueError: if K is below `min_particles`.
    """

    min_particles = 2
    """The smallest K that the estimator can work with."""

    def __init__(self, num_particles: int = 5, max_plate_nesting: float = math.inf) -> None:
        if num_particles < self.min_particles:
            raise ValueError(
                f"expected num_particles >= {self.min_particles} for {type(self).__name__}, got {num_particles}"
            )
        super().__init__(num_particles=num_particles, max_plate_nesting=max_plate_nesting)

    def score_signal(self, log_weight: Tensor) -> Tensor:
        """The coefficient on h_k, besides the -softmax_k(log w) that differentiating L through log q gives.

        Args:
            log_weight: shape [K, *batch].

        Returns:
            Shape [K, *batch], without gradient.
        """
        raise NotImplementedError

    def surrogate(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Shape [*batch]: its value is each datum's bound L, its gradient the estimate of the bound's."""
        return self._surrogate(self._log_weights(model, guide, args, kwargs))

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the sum of the bounds of all data, a scalar to call `backward` on."""
        particles = self._log_weights(model, guide, args, kwargs)
        return -particles.scale * self._surrogate(particles).sum()

    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Minus the sum of the bounds of all data, as a number and without gradients."""
        with torch.no_grad():
            particles = self._log_weights(model, guide, args, kwargs, with_score=False)
            return (-particles.scale * log_mean_exp(particles.log_weight)).sum().item()

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """The loss, detached; its gradient is added to the parameters'."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        torch_backward(loss, retain_graph=self.retain_graph)
        return loss.detach()

    def _surrogate(self, particles: LogWeights) -> Tensor:
        bound = log_mean_exp(particles.log_weight)
        if particles.score is None:
            return bound
        signal = self.score_signal(particles.log_weight.detach())
        # Subtracting the score's own value leaves that of the bound, and does not change the gradient.
        return bound + (signal * (particles.score - particles.score.detach())).sum(0)

    def _log_weights(
        self, model: Callable, guide: Callable, args: tuple, kwargs: dict[str, Any], with_score: bool = True
    ) -> LogWeights:
        if self.max_plate_nesting == math.inf:
            self.max_plate_nesting = guess_max_plate_nesting(model, guide, args, kwargs)
        return log_weights(
            model,
            guide,
            args,
            kwargs,
            num_particles=self.num_particles,
            max_plate_nesting=int(self.max_plate_nesting),
            with_score=with_score,
        )

    def _get_trace(self, model: Callable, guide: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        raise NotImplementedError(
            f"{type(self).__name__} weighs all particles at once; see pyro_sqair.infer.log_weights"
        )


def log_mean_exp(log_weight: Tensor) -> Tensor:
    """log mean_k exp(log_weight): [K, *batch] to [*batch]."""
    return log_weight.logsumexp(0) - math.log(log_weight.shape[0])
