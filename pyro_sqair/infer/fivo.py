# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""FIVO: a particle filter's estimate of the evidence as the objective, with score terms for discrete draws."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args

import torch
from pyro.infer.util import is_validation_enabled
from pyro.nn import PyroModule
from torch import Tensor

from pyro_sqair.infer.multi_sample import SurrogateELBO, log_mean_exp
from pyro_sqair.infer.resampling import Scheme, check_threshold, scheme
from pyro_sqair.infer.smc import SMC, Step, Stepping, check_steps, check_time_first
from pyro_sqair.infer.vimco import ControlVariate, control_variate


class FIVO(SurrogateELBO):
    """Filtering variational objectives (Maddison et al. 2017; Le et al. 2018; Naesseth et al. 2018).

    The bound is L = log Z = sum_t l_t, where l_t = log sum_k V_{t-1,k} alpha_{t,k} is the contribution of frame t to
    the log evidence estimated by a particle filter (see `SMC`). Model and guide need `init` and `step`.

    With h_{t,k} the log q of the draws of particle k at frame t that are not reparameterised, the gradient of
    `differentiable_loss` is minus that of

        L + sum_{t,k} stop_gradient(R_t - c_{t,k} - b_{t,k}) h_{t,k},   R_t = sum_{s >= t} l_s

    since a draw affects only later terms. The control variates do not depend on the draws of particle k at frame t:
    c_{t,k} is l_t with particle k's log alpha predicted from the others (as in VIMCO). b_{t,k} predicts R_{t+1} by the
    mean over the other sequences of the batch, plus the mean difference per frame between this sequence and the others
    so far.

    The score of the ancestors, which resampling adds to the gradient, is dropped, as in the papers, because of its
    high variance. The gradient is then biased: it is that of the bound with the ancestors' probabilities held fixed.
    With `resampling_score` and multinomial resampling, r_{t,k} = log V_{t-1}[ancestor of k] is added to h_{t,k}, and
    the gradient is unbiased. If there are reparameterised draws, this holds only for a threshold of 0 or 1: at others,
    the decision to resample is a discontinuous function of the draws.

    At threshold 0 there is no resampling, and bound and gradient are those of `VIMCO`.

    Every method takes a model, a guide and frames of shape [T, B, ...]. `surrogate` has shape [B].

    Args:
        num_particles: K, at least 2, since each particle needs the others as its baseline.
        resampling: see `SMC`.
        threshold: see `SMC`.
        control_variate: see `VIMCO`.
        resampling_score: whether to add the score of the ancestors; requires "multinomial" resampling.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        num_particles: int = 5,
        resampling: str | Scheme = "systematic",
        threshold: float = 0.5,
        control_variate: ControlVariate = "geometric",
        *,
        resampling_score: bool = False,
    ) -> None:
        if num_particles < 2:
            raise ValueError(f"expected num_particles >= 2 for FIVO, got {num_particles}")
        if control_variate not in get_args(ControlVariate):
            raise ValueError(f"expected control_variate in {get_args(ControlVariate)}, got {control_variate!r}")
        if resampling_score and resampling != "multinomial":
            raise ValueError(
                f"expected resampling 'multinomial' with resampling_score, got {resampling!r}: the ancestors of "
                "other schemes are not independent draws"
            )
        check_threshold(threshold)
        super().__init__(num_particles=num_particles, max_plate_nesting=1)
        self.scheme = scheme(resampling)
        self.threshold = threshold
        self.control_variate: ControlVariate = control_variate
        self.resampling_score = resampling_score

    @torch.no_grad()
    def signal(self, steps: list[Step]) -> Tensor:
        """The coefficient on h_{t,k}, besides what differentiating L gives, shape [T, K, B]."""
        if self.threshold == 0:  # VIMCO's control variate of the product of all frames' weights
            total = torch.stack([step.log_weight for step in steps]).sum(0)
            signal = log_mean_exp(total) - control_variate(total, self.control_variate)
            return signal.expand(len(steps), *signal.shape)
        increments = torch.stack([step.increment for step in steps])  # [T, B]
        predicted = torch.stack(  # c, [T, K, B]
            [control_variate(step.log_weight, self.control_variate, step.prior_log_weight) for step in steps]
        )
        others = mean_of_others(increments)
        later = _sum_after(increments) - _sum_after(others)
        # Mean difference per frame between this sequence and the others, over the frames before t and frame t itself,
        # whose increment is predicted without particle k.
        past = (increments - others).cumsum(0) - (increments - others)
        count = torch.arange(1, len(steps) + 1, dtype=past.dtype, device=past.device).reshape(-1, 1, 1)
        ahead = (past.unsqueeze(1) + predicted - others.unsqueeze(1)) / count
        remaining = len(steps) - count
        return increments.unsqueeze(1) - predicted + later.unsqueeze(1) - remaining * ahead

    def loss(self, model: Stepping, guide: Stepping, frames: Tensor) -> float:
        """Minus the sum of the bounds of all sequences, as a number and without gradients."""
        with torch.no_grad():
            return -torch.stack([step.increment for step in self._steps(model, guide, frames)]).sum().item()

    def _estimate(self, model: Any, guide: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[Tensor, float]:
        steps = self._steps(model, guide, *args, **kwargs)
        bound = torch.stack([step.increment for step in steps]).sum(0)
        scores = [self._score(step) for step in steps]
        if all(score is None for score in scores):
            return bound, 1.0
        zero = torch.zeros_like(steps[0].log_weight)
        score = torch.stack([zero if score is None else score for score in scores])
        # Subtracting the detached score removes its value, but not its gradient.
        return bound + (self.signal(steps) * (score - score.detach())).sum((0, 1)), 1.0

    def _steps(self, model: Stepping, guide: Stepping, frames: Tensor) -> list[Step]:
        check_time_first(frames)
        if not self._checked and is_validation_enabled():
            with _entered(model), _entered(guide):
                check_steps(model, guide, frames)
            self._checked = True
        smc = SMC(model, guide, self.num_particles, self.scheme, self.threshold)
        steps = []
        with _entered(model), _entered(guide):
            particles = smc.init(frames.shape[1])
            for t, frame in enumerate(frames):
                particles, step = smc.step(t, particles, frame, with_score=True)
                steps.append(step)
        return steps

    def _score(self, step: Step) -> Tensor | None:
        """h_{t,k}, plus r_{t,k} with `resampling_score`."""
        if not self.resampling_score or step.resampling is None or step.previous_log_weight is None:
            return step.score
        chosen = step.previous_log_weight.gather(0, step.resampling.ancestors)
        chosen = torch.where(step.resampling.done, chosen, 0.0)
        return chosen if step.score is None else chosen + step.score


def mean_of_others(value: Tensor) -> Tensor:
    """The mean over the other sequences of the batch, shape [*, B]; 0 if B = 1."""
    batch = value.shape[-1]
    return (value.sum(-1, keepdim=True) - value) / (batch - 1) if batch > 1 else torch.zeros_like(value)


def _sum_after(value: Tensor) -> Tensor:
    """sum_{s > t} value_s: [T, ...] to [T, ...]."""
    return value.sum(0) - value.cumsum(0)


@contextmanager
def _entered(program: Any) -> Iterator[None]:
    """Registers the parameters of a PyroModule for SVI, as calling the module does and calling its methods does not."""
    if not isinstance(program, PyroModule):
        yield
        return
    with program._pyro_context:
        for name in program.__dict__["_modules"]:
            getattr(program, name)
        yield
