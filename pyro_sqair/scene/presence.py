# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Distributions that depend on presence: of ``pres`` itself, and of the latents of an object (contract C5)."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.score_parts import ScoreParts
from torch import Tensor

from pyro_sqair.scene.objects import batch_shape


class GatedPresence(TorchDistribution):
    """Distribution of ``pres`` in a slot that may be closed, where ``pres`` is 0 with probability one.

    A closed slot contributes zero to log-probabilities and scores. In propagation this is the factor
    delta_1(z_{t-1}^pres) of Kosiorek et al. 2018, Eqs. 10 and 13. In discovery, slot i is open only if slot i - 1
    found an object and there is room for one more.

    Args:
        base: a distribution over {0, 1}, batch shape broadcastable with ``open``.
        open: where the slot is open, bool, shape ``[*]``.
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

    def expand(self, shape: torch.Size, _instance: object = None) -> GatedPresence:
        if shape == self.batch_shape:
            return self
        return GatedPresence(self.base.expand(shape), self.open.expand(shape))

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        return self.base.sample(sample_shape) * self.open

    def log_prob(self, value: Tensor) -> Tensor:
        closed = torch.where(value == 0, 0.0, -torch.inf).to(value.dtype)
        return torch.where(self.open, self.base.log_prob(value), closed)


class IfPresent(TorchDistribution):
    """Distribution of a latent of an object, whose log-probability is 0 where the object is absent.

    In propagation the guide draws ``where`` and ``what`` before ``pres`` (Kosiorek et al. 2018, Eqs. 12-13). Where the
    object is then absent they are auxiliary variables whose target is q itself, so p and q both leave them out and the
    importance weights stay valid. Log-probabilities are computed after the program has run, when ``pres`` is known.

    Args:
        base: the distribution to draw from.
        pres: an empty list, to which the caller appends ``pres`` of shape ``[*]`` once it is drawn.
    """

    arg_constraints: dict = {}

    def __init__(self, base: TorchDistribution, pres: list[Tensor]) -> None:
        self.base = base
        self.pres = pres
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

    def expand(self, shape: torch.Size, _instance: object = None) -> IfPresent:
        if shape == self.batch_shape:
            return self
        return IfPresent(self.base.expand(shape), self.pres)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        return self.base.sample(sample_shape)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        return self.base.rsample(sample_shape)

    def _mask(self) -> Tensor:
        if not self.pres:
            raise ValueError("expected the slot to sample 'pres' before log-probabilities are computed, got no 'pres'")
        return self.pres[0] > 0

    def log_prob(self, value: Tensor) -> Tensor:
        return torch.where(self._mask(), self.base.log_prob(value), 0.0)

    def score_parts(self, value: Tensor) -> ScoreParts:
        # This leaves the score function unmasked: the draw can influence ``pres`` even where the object is then absent.
        return self.base.score_parts(value).scale_and_mask(mask=self._mask())
