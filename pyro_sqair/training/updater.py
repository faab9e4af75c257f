# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""One update of the weights: clip, skip what is not finite, step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_sqair.training.config import TrainingConfig

# The RMSProp of the published code decays its second moment by 0.9 and adds 1e-10 under the root.
_RMSPROP_DECAY = 0.9
_RMSPROP_EPSILON = 1e-5


class Updater:
    """An optimiser that never steps on a NaN.

    Adam runs fused: one kernel for all weights, which skips the step on the device itself, without the host
    ever waiting for the answer. RMSProp has no such kernel, so there the host reads one number a step.

    Args:
        parameters: the weights.
        config: names the optimiser and the clipping.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], config: TrainingConfig) -> None:
        self.parameters = list(parameters)
        self.clip_norm = math.inf if config.clip_norm is None else config.clip_norm
        self.optimizer: torch.optim.Optimizer
        self._skips_on_device = config.optimizer == "adam"
        if config.optimizer == "adam":
            self.optimizer = torch.optim.Adam(self.parameters, lr=config.learning_rate, fused=True)
        else:
            self.optimizer = torch.optim.RMSprop(
                self.parameters,
                lr=config.learning_rate,
                alpha=_RMSPROP_DECAY,
                eps=_RMSPROP_EPSILON,
                momentum=config.momentum,
            )

    def update(self, loss: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        """Goes one step down `loss`, unless it or its gradient is not finite.

        Args:
            loss: a scalar that depends on the weights.
            rate: the learning rate.

        Returns:
            the global norm of the gradient before clipping, and whether the step was taken; scalars.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip_norm, error_if_nonfinite=False, foreach=True)
        finite = torch.isfinite(norm) & torch.isfinite(loss.detach())
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self._skips_on_device:
            # The way by which torch.amp.GradScaler makes a fused optimiser skip.
            self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
            self.optimizer.step()
        elif bool(finite):
            self.optimizer.step()
        return norm, finite
