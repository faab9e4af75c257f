# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The encoders of a guide: of the whole image and of glimpses (Kosiorek et al. 2018, Algorithms 2 and 3)."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor, nn

from pyro_sqair.nn.convolutions import ConvolutionConfig, ConvolutionEncoder, ConvolutionStack
from pyro_sqair.nn.networks import MLP, positive_scale
from pyro_sqair.scene.objects import SceneConfig
from pyro_sqair.scene.spatial import crop


class Appearance(NamedTuple):
    """Location and scale of a Gaussian over ``what``, encoded from a glimpse; each of shape ``[*, D]``."""

    loc: Tensor
    scale: Tensor


class GlimpseEncoder(nn.Module):
    """Encodes the part of an image inside a box, h_glimpse(ST(x, where)); shared by propagation and discovery.

    Args:
        features: maps flat glimpses of shape ``[*, C h w]`` to features of shape ``[*, F]``.
        features_size: F.
        scene: sizes of glimpses and latents.
    """

    def __init__(self, features: nn.Module, features_size: int, scene: SceneConfig) -> None:
        super().__init__()
        self.features = features
        self.what = nn.Linear(features_size, 2 * scene.what_dim)
        self.what_dim = scene.what_dim
        self.glimpse_size = scene.glimpse_size

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


class Vision(NamedTuple):
    """The encoders of a guide.

    Attributes:
        image: maps flat images of shape ``[B, C H W]`` to ``[B, image_features]``.
        image_features: size of its output.
        glimpse: encodes glimpses.
    """

    image: nn.Module
    image_features: int
    glimpse: GlimpseEncoder


def mlp_vision(scene: SceneConfig, hidden_size: int) -> Vision:
    """The encoders of MLP-SQAIR: two hidden layers each (paper, D.2).

    Args:
        scene: sizes of images, glimpses and latents.
        hidden_size: units of every layer.
    """
    features = MLP(scene.channels * math.prod(scene.glimpse_size), [hidden_size, hidden_size])
    glimpse = GlimpseEncoder(features, hidden_size, scene)
    image = MLP(scene.channels * math.prod(scene.image_size), [hidden_size, hidden_size])
    return Vision(image, hidden_size, glimpse)


def conv_vision(scene: SceneConfig, hidden_size: int, config: ConvolutionConfig) -> Vision:
    """The encoders of CONV-SQAIR: a shared CNN and a fully-connected layer for each (paper, D.2 and E).

    Args:
        scene: sizes of images, glimpses and latents.
        hidden_size: units of the fully-connected layers.
        config: sizes of the CNN.
    """
    stack = ConvolutionStack(scene.channels, config.encoder_maps, config.encoder_strides)
    image = ConvolutionEncoder(stack, scene.channels, scene.image_size, hidden_size)
    features = ConvolutionEncoder(stack, scene.channels, scene.glimpse_size, hidden_size)
    return Vision(image, hidden_size, GlimpseEncoder(features, hidden_size, scene))
