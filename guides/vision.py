# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""How a guide sees: networks for the whole image and for glimpses of it."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import nn

from pyro_sqair.guides.glimpse import GlimpseEncoder, mlp_glimpse_encoder
from pyro_sqair.nn.convolutions import ConvolutionConfig, ConvolutionEncoder, ConvolutionStack
from pyro_sqair.nn.networks import MLP
from pyro_sqair.scene.objects import SceneConfig


class Vision(NamedTuple):
    """The encoders of a guide.

    Attributes:
        image: maps flat images of shape ``[B, C H W]`` to ``[B, image_features]``.
        image_features: size of its output.
        glimpse: looks through a box.
    """

    image: nn.Module
    image_features: int
    glimpse: GlimpseEncoder


def mlp_vision(scene: SceneConfig, hidden_size: int = 256) -> Vision:
    """The encoders of MLP-SQAIR: two hidden layers each (paper, D.2).

    Args:
        scene: sizes of images, glimpses and latents.
        hidden_size: units of every layer.
    """
    glimpse = mlp_glimpse_encoder(scene.what_dim, hidden_size, scene.channels, scene.glimpse_size)
    image = MLP(scene.channels * math.prod(scene.image_size), [hidden_size, hidden_size])
    return Vision(image, hidden_size, glimpse)


def conv_vision(scene: SceneConfig, hidden_size: int = 128, config: ConvolutionConfig | None = None) -> Vision:
    """The encoders of CONV-SQAIR: one CNN for both, a fully-connected layer for each (paper, D.2 and E).

    Args:
        scene: sizes of images, glimpses and latents.
        hidden_size: units of the fully-connected layers.
        config: of the CNN; the default is that of moving MNIST.
    """
    config = ConvolutionConfig() if config is None else config
    stack = ConvolutionStack(scene.channels, config.encoder_maps, config.encoder_strides)
    image = ConvolutionEncoder(stack, scene.channels, scene.image_size, hidden_size)
    features = ConvolutionEncoder(stack, scene.channels, scene.glimpse_size, hidden_size)
    glimpse = GlimpseEncoder(features, hidden_size, scene.what_dim, scene.channels, scene.glimpse_size)
    return Vision(image, hidden_size, glimpse)
