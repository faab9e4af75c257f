# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Rényi warm-up: begin near the ELBO, which every particle has a share in, and end at the importance-weighted bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import torch
from pyro.infer import ELBO
from torch import Tensor

from pyro_sqair.infer.multi_sample import MultiSampleELBO

Schedule = Literal["geometric", "linear"]


class RenyiWarmup(ELBO):
    """Lowers the order alpha of an estimator's bound over the first steps (Liévin et al. 2020, end of Section 4).

    Early on, one particle has nearly all the weight, and the others teach nothing. At order alpha the weights are
    w_k^(1 - alpha), which are nearly even at 0.99.

    A step is a call that makes gradients: `differentiable_loss` or `surrogate` with gradients enabled, or
    `loss_and_grads`. Every loss, that of `loss` and of calls under `torch.no_grad` too, is of the bound at the
    order of the step to come: during the warm-up it falls for this reason alone, and is comparable to other runs
    only after it. Evaluate by `evaluate_bounds`.

    Args:
        estimator: any estimator of this package; its `alpha` is set before each call.
        steps: number of steps until alpha is `end`.
        start: alpha of the first step.
        end: alpha from then on.
        schedule: "geometric" multiplies 1 - alpha by the same factor each step, as the paper's code does; "linear"
            takes the same from alpha.

    Raises:
        ValueError: if the estimator's bound has no order, steps < 1, not 0 <= end <= start < 1, or the schedule is
            unknown.
    """

    def __init__(
        self,
        estimator: MultiSampleELBO,
        steps: int,
        start: float = 0.99,
        end: float = 0.0,
        schedule: Schedule = "geometric",
    ) -> None:
        if not isinstance(estimator, MultiSampleELBO):
            raise ValueError(
                f"expected an estimator whose bound has an order, such as VIMCO(5), got {type(estimator).__name__}"
            )
        if steps < 1:
            raise ValueError(f"expected steps >= 1, got {steps}")
        if not 0 <= end <= start < 1:
            raise ValueError(f"expected 0 <= end <= start < 1, got start={start} and end={end}")
        if schedule not in get_args(Schedule):
            raise ValueError(f"expected schedule in {get_args(Schedule)}, got {schedule!r}")
        super().__init__(num_particles=estimator.num_particles, max_plate_nesting=estimator.max_plate_nesting)
        self.estimator = estimator
        self.steps, self.start, self.end = steps, start, end
        self.schedule: Schedule = schedule
        self.step = 0

    @property
    def alpha(self) -> float:
        """The order of the step to come."""
        done = self.step / self.steps
        if done >= 1:
            return self.end
        if self.schedule == "linear":
            return self.start + done * (self.end - self.start)
        return 1 - (1 - self.start) ** (1 - done) * (1 - self.end) ** done

    def surrogate(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """See `MultiSampleELBO.surrogate`."""
        return self._counted(self.estimator.surrogate, model, guide, *args, **kwargs)

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """See `MultiSampleELBO.differentiable_loss`."""
        return self._counted(self.estimator.differentiable_loss, model, guide, *args, **kwargs)

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """See `MultiSampleELBO.loss_and_grads`."""
        return self._counted(self.estimator.loss_and_grads, model, guide, *args, **kwargs)

    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """See `MultiSampleELBO.loss`."""
        self.estimator.alpha = self.alpha
        return self.estimator.loss(model, guide, *args, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        """The number of steps taken, and the schedule they belong to; JSON-able."""
        return {"step": self.step, **self._settings()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up a warm-up where `state_dict` left it.

        Raises:
            ValueError: if the state is of another schedule.
        """
        expected = self._settings()
        if {name: state.get(name) for name in expected} != expected or not isinstance(state.get("step"), int):
            raise ValueError(f"expected the state of a warm-up with {expected} and its step, got {dict(state)}")
        self.step = state["step"]

    def _settings(self) -> dict[str, Any]:
        return {"steps": self.steps, "start": self.start, "end": self.end, "schedule": self.schedule}

    def _counted(self, call: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        self.estimator.alpha = self.alpha
        result = call(*args, **kwargs)
        if torch.is_grad_enabled():
            self.step += 1
        return result

    def _get_trace(self, model: Callable, guide: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        return self.estimator._get_trace(model, guide, args, kwargs)
