# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Glimpses: cropping, masking and encoding them (Kosiorek et al. 2018, Algorithms 2 and 3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyro_sqair.nn.networks import MLP, positive_scale
from pyro_sqair.scene.spatial import crop


class Appearance(NamedTuple):
    """What a glimpse looks like: location and scale of a Gaussian over ``what``, each of shape ``[*, D]``."""

    loc: Tensor
    scale: Tensor


class GlimpseEncoder(nn.Module):
    """Looks at an image through a box: h_glimpse(ST(x, where)), shared by propagation and discovery.

    Args:
        features: maps flat glimpses of shape ``[*, C h w]`` to features of shape ``[*, F]``.
        features_size: F.
        what_dim: the dimension D of ``what``.
        channels: C.
        glimpse_size: (h, w) in pixels.
    """

    def __init__(
        self,
        features: nn.Module,
        features_size: int,
        what_dim: int,
        channels: int,
        glimpse_size: tuple[int, int],
    ) -> None:
        super().__init__()
        self.features = features
        self.what = nn.Linear(features_size, 2 * what_dim)
        self.channels = channels
        self.glimpse_size = glimpse_size

    def forward(self, frame: Tensor, where: Tensor, mask: Tensor | None = None) -> Appearance:
        """Crops and encodes.

        Args:
            frame: shape ``[B, C, H, W]``.
            where: logits, shape ``[*, 4]`` where ``*`` ends in B.
            mask: multiplies the glimpse, shape ``[*, h w]``; None for no mask.
        """
        glimpse = crop(frame, where, self.glimpse_size).flatten(-2)  # [*, C, h w]
        if mask is not None:
            glimpse = glimpse * mask.unsqueeze(-2)
        loc, scale = self.what(self.features(glimpse.flatten(-2))).chunk(2, -1)
        return Appearance(loc, positive_scale(scale))


def mlp_glimpse_encoder(
    what_dim: int, hidden_size: int, channels: int = 1, glimpse_size: tuple[int, int] = (20, 20)
) -> GlimpseEncoder:
    """The encoder of MLP-SQAIR: two hidden layers (paper, Appendix A)."""
    pixels = channels * glimpse_size[0] * glimpse_size[1]
    features = MLP(pixels, [hidden_size, hidden_size])
    return GlimpseEncoder(features, hidden_size, what_dim, channels, glimpse_size)


class GlimpseMask(MLP):
    """Which pixels of a glimpse belong to the object, judged from its temporal state before looking.

    Args:
        state_size: dimension of the temporal state h^T.
        glimpse_size: (h, w) in pixels.
        hidden_size: units of the hidden layer.
    """

    def __init__(self, state_size: int, glimpse_size: tuple[int, int], hidden_size: int = 128) -> None:
        super().__init__(state_size, [hidden_size], glimpse_size[0] * glimpse_size[1], output_bias=1.0)

    def forward(self, state: Tensor) -> Tensor:
        """Shape ``[*, state]`` to ``[*, h w]``, values in (0, 1)."""
        return torch.sigmoid(super().forward(state))
