# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The renderer: from objects to the mean of an image (Kosiorek et al. 2018, Algorithm 1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pyro_sqair.nn.convolutions import ConvolutionConfig, SubPixelDecoder
from pyro_sqair.nn.networks import MLP
from pyro_sqair.scene.objects import Objects, SceneConfig, trim_slots
from pyro_sqair.scene.spatial import coverage, paste, place


class Renderer(nn.Module):
    """Decodes every object into a glimpse, writes the glimpses into an image and adds them up.

    A learned mean image is added wherever a glimpse is written, as in the released code.

    Args:
        decoder: maps ``what`` of shape ``[*, D]`` to glimpse pixels of shape ``[*, C h w]``.
        scene: sizes of images and glimpses.
        output_scale: initial value of a learned factor of the decoder's output; a larger one speeds up learning.
        std: the standard deviation of a pixel around the mean, in units of intensity.

    Raises:
        ValueError: if `std` is not positive.
    """

    def __init__(self, decoder: nn.Module, scene: SceneConfig, output_scale: float = 0.25, std: float = 0.3) -> None:
        super().__init__()
        if not std > 0:
            raise ValueError(f"expected a positive standard deviation, got {std}")
        self.decoder = decoder
        self.glimpse_shape = (scene.channels, *scene.glimpse_size)
        self.image_size = scene.image_size
        self.std = std
        self.scale = nn.Parameter(torch.tensor(output_scale))
        self.mean_image = nn.Parameter(torch.zeros(scene.channels, *scene.image_size))

    def glimpses(self, what: Tensor) -> Tensor:
        """Line 4: decodes ``what`` of shape ``[*, D]`` into glimpses of shape ``[*, C, h, w]``."""
        decoded = self.decoder(what) * self.scale
        if decoded.shape[-1] != math.prod(self.glimpse_shape):
            channels, height, width = self.glimpse_shape
            raise ValueError(
                f"expected a decoder that makes {math.prod(self.glimpse_shape)} numbers, for glimpses of {channels} "
                f"channels and {height}x{width} pixels, got one that makes {decoded.shape[-1]}"
            )
        return decoded.unflatten(-1, self.glimpse_shape)

    def forward(self, objects: Objects) -> Tensor:
        """The mean image y, shape ``[*, C, H, W]``."""
        objects = trim_slots(objects)
        placement = place(objects.where, self.glimpse_shape[1:], self.image_size)
        glimpses = self.glimpses(objects.what) * objects.pres[..., None, None, None]
        # 0 outside glimpses and 1 inside, with a smooth edge
        written = torch.sigmoid(20 * coverage(objects.pres, placement) - 10)
        return paste(glimpses, placement) + self.mean_image * written


def mlp_renderer(scene: SceneConfig, hidden_size: int, output_scale: float = 0.25, std: float = 0.3) -> Renderer:
    """The renderer of MLP-SQAIR (paper, D.2): a decoder with two hidden layers.

    Args:
        scene: sizes of images, glimpses and latents.
        hidden_size: units of both layers.
        output_scale: see :class:`Renderer`.
        std: see :class:`Renderer`.
    """
    decoder = MLP(scene.what_dim, [hidden_size, hidden_size], scene.channels * math.prod(scene.glimpse_size))
    return Renderer(decoder, scene, output_scale, std)


def conv_renderer(scene: SceneConfig, config: ConvolutionConfig, output_scale: float = 0.25) -> Renderer:
    """The renderer of CONV-SQAIR (paper, D.2 and E): a sub-pixel decoder.

    Args:
        scene: sizes of images, glimpses and latents.
        config: sizes of the decoder.
        output_scale: see :class:`Renderer`.

    Raises:
        ValueError: if the decoder makes glimpses of another size.
    """
    return Renderer(SubPixelDecoder(scene, config), scene, output_scale)
