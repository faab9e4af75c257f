# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Updates of the weights with gradient clipping; non-finite updates are skipped."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping

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
        parameters: the weights, by name.
        config: with the optimiser and the clipping.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: TrainingConfig) -> None:
        self.named, self.config = dict(parameters), config
        self.parameters = list(self.named.values())
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

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """The state of the optimiser by parameter, without those that no step has used."""
        state = self.optimizer.state
        return {name: dict(state[weight]) for name, weight in self.named.items() if weight in state}

    def empty_state(self, unused: Container[str]) -> dict[str, dict[str, Tensor]]:
        """A `state_dict` of this optimiser that has seen no gradient, with all its entries.

        Args:
            unused: the names of the parameters that no step has used.
        """
        copies = Updater({name: nn.Parameter(torch.zeros_like(p)) for name, p in self.named.items()}, self.config)
        for name, copy in copies.named.items():
            copy.grad = None if name in unused else torch.zeros_like(copy)
        copies.optimizer.step()
        return copies.state_dict()

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Replaces the state of the optimiser by a copy of one with the entries, dtypes and shapes of `empty_state`.

        PyTorch's own would take tensors of any shape, and the fused kernel would then read and write past their end.
        """
        copied = self.empty_state(unused=self.named.keys() - state.keys())
        for name, entries in copied.items():
            for entry, value in entries.items():
                value.copy_(state[name][entry])
        self.optimizer.state.clear()
        self.optimizer.state.update({self.named[name]: entries for name, entries in copied.items()})
