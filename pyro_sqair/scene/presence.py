# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Presence: who may be present, and what counts only where an object is present (contract C5)."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.score_parts import ScoreParts
from torch import Tensor

from pyro_sqair.scene.shapes import batch_shape


class GatedPresence(TorchDistribution):
    """A presence variable that is surely 0 where its slot is closed.

    This is the factor delta_1(z_{t-1}^pres) of the paper's Eqs. 10 and 13 (what was not there cannot be propagated),
    and in discovery the rule that slot i opens only if slot i-1 found something and there is room. A closed slot has
    probability one of being absent: it adds exactly nothing to a weight or to a score.

    Args:
        base: a distribution over {0, 1}, batch shape broadcastable with ``open``.
        open: which slots are open, bool, shape ``[*]``.
    """

    arg_constraints: dict = {}

    def __init__(self, base: TorchDistribution, open: Tensor) -> None:
        shape = batch_shape(base.batch_shape, open.shape)
        self.base = base if base.batch_shape == shape else base.expand(shape)
        self.open = open.expand(shape)
        super().__init__(shape, base.event_shape, validate_args=False)

    @property
    def support(self) -> object:
        return self.base.support

    @property
    def has_enumerate_support(self) -> bool:
        return self.base.has_enumerate_support

    @property
    def mean(self) -> Tensor:
        return self.base.mean * self.open

    @property
    def variance(self) -> Tensor:
        return self.base.variance * self.open

    def expand(self, shape: torch.Size, _instance: object = None) -> GatedPresence:
        if shape == self.batch_shape:
            return self
        return GatedPresence(self.base.expand(shape), self.open.expand(shape))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        return self.base.enumerate_support(expand)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        return self.base.sample(sample_shape) * self.open

    def log_prob(self, value: Tensor) -> Tensor:
        closed = torch.where(value == 0, 0.0, -torch.inf).to(value.dtype)
        return torch.where(self.open, self.base.log_prob(value), closed)


class IfPresent(TorchDistribution):
    """A draw whose log-probability counts only where the object turns out to be present.

    In propagation the guide draws ``where`` and ``what`` before ``pres`` (paper, Eqs. 12-13). Where the object is then
    absent they are auxiliary variables whose target is q itself, so both p and q leave them out and the importance
    weights stay valid. Log-probabilities are taken after the program has run, by when the answer is known.

    Args:
        base: the distribution that is drawn from.
        answer: a list, empty at first, into which ``pres`` of shape ``[*]`` is put once it is drawn.
    """

    arg_constraints: dict = {}

    def __init__(self, base: TorchDistribution, answer: list[Tensor]) -> None:
        self.base = base
        self.answer = answer
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def support(self) -> object:
        return self.base.support

    @property
    def has_rsample(self) -> bool:
        return self.base.has_rsample

    @property
    def mean(self) -> Tensor:
        return self.base.mean

    @property
    def variance(self) -> Tensor:
        return self.base.variance

    def expand(self, shape: torch.Size, _instance: object = None) -> IfPresent:
        if shape == self.batch_shape:
            return self
        return IfPresent(self.base.expand(shape), self.answer)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        return self.base.sample(sample_shape)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        return self.base.rsample(sample_shape)

    def _where_present(self, log_prob: Tensor) -> Tensor:
        if not self.answer:
            raise ValueError("expected the slot to sample 'pres' before log-probabilities are taken, got no 'pres'")
        return torch.where(self.answer[0] > 0, log_prob, 0.0)

    def log_prob(self, value: Tensor) -> Tensor:
        return self._where_present(self.base.log_prob(value))

    def score_parts(self, value: Tensor) -> ScoreParts:
        # What is drawn can sway 'pres' even where the object ends up absent: a score, unlike a weight, is never masked.
        parts = self.base.score_parts(value)
        entropy = parts.entropy_term
        if isinstance(entropy, Tensor):  # else the number 0
            entropy = self._where_present(entropy)
        return ScoreParts(self._where_present(parts.log_prob), parts.score_function, entropy)
