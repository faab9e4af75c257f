# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Rényi warm-up: starts near the ELBO, to which all particles contribute, and ends at the importance-weighted bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_sqair.infer.multi_sample import MultiSampleELBO, SurrogateELBO


class RenyiWarmup(SurrogateELBO):
    """Lowers the order alpha of an estimator's bound over the first steps (Liévin et al. 2020, end of Section 4).

    Early in training one particle has nearly all the weight, and the others have no effect. At order alpha the weights
    are w_k^(1 - alpha), which are nearly even at 0.99. As in the paper's code, 1 - alpha is multiplied by the same
    factor at each step.

    A step is a call that computes gradients: `differentiable_loss` or `surrogate` with gradients enabled, or
    `loss_and_grads`. Every loss, also that of `loss` and of calls under `torch.no_grad`, is that of the bound at the
    order of the next step. So the loss falls during the warm-up because of the order alone, and can be compared with
    other runs only afterwards. Use `evaluate_bounds` for evaluation.

    Args:
        estimator: any estimator of this package whose bound has an order; its `alpha` is set before each call.
        steps: number of steps until alpha is `end`.
        start: alpha of the first step.
        end: alpha after `steps` steps.

    Raises:
        ValueError: if the estimator's bound has no order, steps < 1, or not 0 <= end <= start < 1.
    """

    def __init__(self, estimator: MultiSampleELBO, steps: int, start: float = 0.99, end: float = 0.0) -> None:
        if not isinstance(estimator, MultiSampleELBO):
            raise ValueError(
                f"expected an estimator whose bound has an order, such as VIMCO(5), got {type(estimator).__name__}"
            )
        if steps < 1:
            raise ValueError(f"expected steps >= 1, got {steps}")
        if not 0 <= end <= start < 1:
            raise ValueError(f"expected 0 <= end <= start < 1, got start={start} and end={end}")
        super().__init__(num_particles=estimator.num_particles, max_plate_nesting=estimator.max_plate_nesting)
        self.estimator = estimator
        self.steps, self.start, self.end = steps, start, end
        self.step = 0

    @property
    def alpha(self) -> float:
        """The order of the next step."""
        done = self.step / self.steps
        return self.end if done >= 1 else 1 - (1 - self.start) ** (1 - done) * (1 - self.end) ** done

    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """See `MultiSampleELBO.loss`."""
        self.estimator.alpha = self.alpha
        return self.estimator.loss(model, guide, *args, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        """The number of steps taken and the settings of the schedule, as JSON-serialisable values."""
        return {"step": self.step, "steps": self.steps, "start": self.start, "end": self.end}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resumes a warm-up from its `state_dict`.

        Raises:
            ValueError: if the state belongs to another schedule.
        """
        step = state.get("step")
        if state != self.state_dict() | {"step": step} or type(step) is not int or step < 0:
            raise ValueError(f"expected the state of a warm-up with {self.state_dict()}, got {dict(state)}")
        self.step = step

    def _estimate(self, model: Callable, guide: Callable, args: tuple, kwargs: dict[str, Any]) -> tuple[Tensor, float]:
        self.estimator.alpha = self.alpha
        estimate = self.estimator._estimate(model, guide, args, kwargs)
        if torch.is_grad_enabled():
            self.step += 1
        return estimate
