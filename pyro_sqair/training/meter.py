# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Means of what training logs, summed on the device and read once per line of the log."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Reading(NamedTuple):
    """Means over the steps since the last reading; NaN if no step was taken.

    Attributes:
        bound: nats per frame.
        gradient_norm: before clipping.
        taken: steps taken.
        skipped: steps whose loss or gradient was not finite.
    """

    bound: float
    gradient_norm: float
    taken: int
    skipped: int


class Meter:
    """Sums the loss and the gradient norm of the steps that were taken.

    Args:
        device: where the sums are kept; only :meth:`read` waits for it.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, device=device)  # loss, gradient norm, steps taken
        self.logged = 0

    def add(self, loss: Tensor, norm: Tensor, finite: Tensor) -> None:
        """Adds one step; all three are scalars on the device."""
        values = torch.stack([loss.detach(), norm, torch.ones_like(norm)])
        self.sums += torch.where(finite, values, torch.zeros_like(values))
        self.logged += 1

    def read(self) -> Reading:
        """The means so far; the sums start again."""
        loss, norm, taken = self.sums.tolist()
        steps = round(taken)
        reading = Reading(
            -loss / taken if steps else float("nan"),
            norm / taken if steps else float("nan"),
            steps,
            self.logged - steps,
        )
        self.sums.zero_()
        self.logged = 0
        return reading
