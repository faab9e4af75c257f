# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""VIMCO: the multi-sample bound with an unbiased, low-variance gradient for discrete draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from pyro.infer import ELBO
from pyro.infer.util import torch_backward
from torch import Tensor

from pyro_sqair.infer.log_weights import LogWeights, log_weights
from pyro_sqair.infer.plates import guess_max_plate_nesting

ControlVariate = Literal["geometric", "arithmetic"]


class VIMCO(ELBO):
    """Variational inference for Monte Carlo objectives (Mnih & Rezende 2016).

    For every datum the bound is L = log mean_k w_k, w_k = p(x, z_k) / q(z_k | x). Its gradient is that of

        L + sum_k stop_gradient(L - c_k) h_k

    where h_k is log q of the draws of particle k that are not reparameterised, and the control variate c_k is
    L with log w_k replaced by a guess from the other particles. c_k does not depend on particle k, so the
    gradient is unbiased; draws that are reparameterised are differentiated through.

    Use it with `pyro.infer.SVI`, or as `elbo = VIMCO(5)(model, guide)`, a module whose call returns the loss.
    Works for any model and guide; every site has to lie inside the batch plate, if there is one.

    Args:
        num_particles: K, at least 2; drawn side by side in a plate left of all others.
        max_plate_nesting: dimensions that plates of model and guide take; if not given, found by running both
            once.
        control_variate: the guess of log w_k: "geometric" is mean_{l != k} log w_l, "arithmetic" is
            log mean_{l != k} w_l.

    Raises:
        ValueError: if K < 2 or the control variate is unknown.
    """

    def __init__(
        self,
        num_particles: int = 5,
        max_plate_nesting: float = math.inf,
        control_variate: ControlVariate = "geometric",
    ) -> None:
        if num_particles < 2:
            raise ValueError(f"expected num_particles >= 2 (each has the others as baseline), got {num_particles}")
        if control_variate not in get_args(ControlVariate):
            kinds = get_args(ControlVariate)
            raise ValueError(f"expected control_variate in {kinds}, got {control_variate!r}")
        super().__init__(num_particles=num_particles, max_plate_nesting=max_plate_nesting)
        self.control_variate: ControlVariate = control_variate

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
        signal = bound.detach() - control_variate(particles.log_weight, self.control_variate)
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
        raise NotImplementedError("VIMCO weighs all particles at once; see pyro_sqair.infer.log_weights")


def log_mean_exp(log_weight: Tensor) -> Tensor:
    """log mean_k exp(log_weight): [K, *batch] to [*batch]."""
    return log_weight.logsumexp(0) - math.log(log_weight.shape[0])


@torch.no_grad()
def control_variate(log_weight: Tensor, kind: ControlVariate = "geometric") -> Tensor:
    """c_k: the bound with particle k's log weight guessed from the others.

    Args:
        log_weight: shape [K, *batch], K >= 2.
        kind: see `VIMCO`.

    Returns:
        Shape [K, *batch], without gradient.
    """
    num_particles = log_weight.shape[0]
    own = torch.eye(num_particles, dtype=torch.bool, device=log_weight.device)
    own = own.reshape(own.shape + (1,) * (log_weight.dim() - 1))  # [k, l, *1]
    if kind == "arithmetic":  # L with w_k replaced by the others' mean *is* the log of that mean
        return log_weight.masked_fill(own, -math.inf).logsumexp(1) - math.log(num_particles - 1)
    # Summing the others, not subtracting from the sum of all: a weight of zero (-inf - -inf) would give NaN.
    guess = log_weight.masked_fill(own, 0.0).sum(1, keepdim=True) / (num_particles - 1)  # [k, 1, *batch]
    return torch.where(own, guess, log_weight).logsumexp(1) - math.log(num_particles)
