# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""A moving average of the weights, which evaluates better than the last weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """The exponential moving average a ← d·a + (1 − d)·w, after every update.

    The decay d is min(decay, (1 + n) / (10 + n)) at update n = 0, 1, …, so that the influence of the initial weights
    vanishes soon even if `decay` is near one.

    Args:
        parameters: the weights to average, by name; a parameter that modules share only once.
        decay: in [0, 1).
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self._weights = dict(parameters)
        self.values: dict[str, Tensor] = {k: p.detach().clone() for k, p in parameters.items()}

    def update(self, n: int) -> None:
        """Adds the weights after update number `n` to the average."""
        average = get_ema_multi_avg_fn(min(self.decay, (1 + n) / (10 + n)))
        average(list(self.values.values()), list(self._weights.values()), n)

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Replaces the average."""
        for name, value in self.values.items():
            value.copy_(values[name])

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """A context in which the modules hold the averaged weights."""
        before = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._copy(self.values)
        try:
            yield
        finally:
            self._copy(before)

    @torch.no_grad()
    def _copy(self, values: Mapping[str, Tensor]) -> None:
        for name, weight in self._weights.items():
            weight.copy_(values[name])
