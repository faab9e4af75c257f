# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Updates of the weights with gradient clipping; non-finite updates are skipped."""

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
    """An optimiser that skips steps whose loss or gradient is not finite.

    Adam is fused: one kernel for all weights, which skips a step on the device, without synchronisation. RMSProp has no
    such kernel, so the host reads one number from the device in every step.

    Args:
        parameters: the weights.
        config: with the optimiser and the clipping.
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
        """Takes one step, unless `loss` or its gradient is not finite.

        Args:
            loss: a scalar that depends on the weights.
            rate: the learning rate.

        Returns:
            The global norm of the gradient before clipping, and whether the step was taken; scalars.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip_norm, error_if_nonfinite=False, foreach=True)
        finite = torch.isfinite(norm) & torch.isfinite(loss.detach())
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self._skips_on_device:
            # torch.amp.GradScaler lets a fused optimiser skip a step in the same way.
            self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
            self.optimizer.step()
        elif bool(finite):
            self.optimizer.step()
        return norm, finite
