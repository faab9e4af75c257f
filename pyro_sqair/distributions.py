# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Two Gaussians that the programs need and Pyro has only in a slower form."""

from __future__ import annotations

import math

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class ImageNormal(TorchDistribution):
    """An image with independent Gaussian pixels of one standard deviation (paper, Algorithm 1 line 6).

    The same law as ``Normal(mean, std).to_event(3)``, without a per-pixel copy of the standard deviation.

    Args:
        mean: shape ``[*, C, H, W]``.
        std: the standard deviation, in units of intensity.
    """

    arg_constraints = {"mean": constraints.independent(constraints.real, 3)}
    support = constraints.independent(constraints.real, 3)
    has_rsample = True

    def __init__(self, mean: Tensor, std: float, validate_args: bool | None = None) -> None:
        self.mean_image = mean
        self.std = std
        super().__init__(mean.shape[:-3], mean.shape[-3:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.mean_image

    @property
    def variance(self) -> Tensor:
        return torch.full_like(self.mean_image, self.std**2)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> ImageNormal:
        return ImageNormal(self.mean_image.expand(*batch_shape, *self.event_shape), self.std, validate_args=False)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        mean = self.mean_image.expand(*sample_shape, *self.mean_image.shape)
        return mean + self.std * torch.randn_like(mean)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        squares = (value - self.mean_image).square().flatten(-3).sum(-1)
        constant = math.prod(self.event_shape) * (math.log(self.std) + _HALF_LOG_TAU)
        return squares * (-0.5 / self.std**2) - constant


class CorrelatedNormal(TorchDistribution):
    """A Gaussian with covariance factor diag(scale) L, where L is shared by the whole batch.

    The same law as ``MultivariateNormal(loc, scale_tril=scale[..., None] * L)``; since L is shared, one small
    triangular inverse serves every element.

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

    @property
    def variance(self) -> Tensor:
        return self.scale.square() * self.factor.square().sum(-1)

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
        volume = self.scale.log().sum(-1) + self.factor.diagonal().log().sum()
        return -0.5 * noise.square().sum(-1) - volume - self.event_shape[0] * _HALF_LOG_TAU
