# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Faster forms of two Gaussian distributions of PyTorch."""

from __future__ import annotations

import math

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class ImageNormal(TorchDistribution):
    """An image with independent Gaussian pixels of one standard deviation (Kosiorek et al. 2018, Algorithm 1, line 6).

    The same distribution as ``Normal(loc, std).to_event(3)``, without a standard deviation for each pixel.

    Args:
        loc: the mean, shape ``[*, C, H, W]``.
        std: the standard deviation, in units of intensity.
    """

    arg_constraints = {"loc": constraints.independent(constraints.real, 3)}
    support = constraints.independent(constraints.real, 3)
    has_rsample = True

    def __init__(self, loc: Tensor, std: float, validate_args: bool | None = None) -> None:
        self.loc = loc
        self.std = std
        super().__init__(loc.shape[:-3], loc.shape[-3:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.loc

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> ImageNormal:
        return ImageNormal(self.loc.expand(*batch_shape, *self.event_shape), self.std, validate_args=False)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        loc = self.loc.expand(*sample_shape, *self.loc.shape)
        return loc + self.std * torch.randn_like(loc)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        squares = (value - self.loc).square().flatten(-3).sum(-1)
        constant = math.prod(self.event_shape) * (math.log(self.std) + _HALF_LOG_2PI)
        return squares * (-0.5 / self.std**2) - constant


class CorrelatedNormal(TorchDistribution):
    """A multivariate Gaussian with scale matrix diag(scale) L, where the whole batch shares L.

    The same distribution as ``MultivariateNormal(loc, scale_tril=scale[..., None] * L)``, with one triangular inverse
    for the whole batch.

    Args:
        loc: shape ``[*, E]``.
        scale: positive, shape ``[*, E]``.
        factor: L, lower triangular with a positive diagonal, shape ``[E, E]``.
    """

    arg_constraints = {
        "loc": constraints.real_vector,
        "scale": constraints.independent(constraints.positive, 1),
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, factor: Tensor, validate_args: bool | None = None) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.factor = factor
        super().__init__(self.loc.shape[:-1], self.loc.shape[-1:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.loc

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> CorrelatedNormal:
        shape = torch.Size(batch_shape) + self.event_shape
        return CorrelatedNormal(self.loc.expand(shape), self.scale.expand(shape), self.factor, validate_args=False)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        noise = torch.randn(*sample_shape, *self.loc.shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.scale * (noise @ self.factor.mT)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        identity = torch.eye(self.event_shape[0], dtype=self.factor.dtype, device=self.factor.device)
        inverse = torch.linalg.solve_triangular(self.factor, identity, upper=False)
        noise = ((value - self.loc) / self.scale) @ inverse.mT
        log_determinant = self.scale.log().sum(-1) + self.factor.diagonal().log().sum()
        return -0.5 * noise.square().sum(-1) - log_determinant - self.event_shape[0] * _HALF_LOG_2PI
