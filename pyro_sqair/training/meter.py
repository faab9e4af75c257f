# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Means for the training log, summed on the device and read once per log record."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Reading(NamedTuple):
    """Means over the steps taken since the last reading; NaN if none was taken.

    Attributes:
        bound: nats per frame.
        gradient_norm: before clipping.
        skipped: number of steps whose loss or gradient was not finite.
    """

    bound: float
    gradient_norm: float
    skipped: int


class Meter:
    """Sums the loss and the gradient norm of the steps that were taken.

    Args:
        device: of the sums; only :meth:`read` and `all_skipped` synchronise with it.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, device=device)  # loss, gradient norm, steps taken
        self.logged = 0

    def add(self, loss: Tensor, norm: Tensor, finite: Tensor) -> None:
        """Adds one step; all three are scalars on the device."""
        values = torch.stack([loss.detach(), norm, torch.ones_like(norm)])
        self.sums += torch.where(finite, values, torch.zeros_like(values))
        self.logged += 1

    @property
    def all_skipped(self) -> bool:
        """Whether there were steps since the last reading, and none was taken; reads the device."""
        return self.logged > 0 and self.sums[2].item() == 0

    def read(self) -> Reading:
        """Returns the means and resets the sums."""
        loss, norm, taken = self.sums.tolist()
        skipped, self.logged = self.logged - round(taken), 0
        self.sums.zero_()
        return Reading(-loss / taken, norm / taken, skipped) if taken else Reading(math.nan, math.nan, skipped)
