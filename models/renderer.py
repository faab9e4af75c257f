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

    A learned mean image shows wherever a glimpse is written, as in the released code.

    Args:
        decoder: maps ``what`` of shape ``[*, D]`` to glimpse pixels of shape ``[*, C h w]``.
        channels: C.
        glimpse_size: (h, w) in pixels.
        image_size: (H, W) in pixels.
        output_scale: the decoder's output is multiplied by a learned scale that starts here.
        std: the standard deviation of a pixel around the mean, in units of intensity.
    """

    def __init__(
        self,
        decoder: nn.Module,
        channels: int,
        glimpse_size: tuple[int, int],
        image_size: tuple[int, int],
        output_scale: float = 0.25,
        std: float = 0.3,
    ) -> None:
        super().__init__()
        if any(g > s for g, s in zip(glimpse_size, image_size, strict=True)):
            raise ValueError(f"expected a glimpse no larger than the image {image_size}, got {glimpse_size}")
        if not std > 0:
            raise ValueError(f"expected a positive standard deviation, got {std}")
        self.decoder = decoder
        self.channels = channels
        self.glimpse_size = glimpse_size
        self.image_size = image_size
        self.std = std
        self.scale = nn.Parameter(torch.tensor(output_scale))
        self.mean_image = nn.Parameter(torch.zeros(channels, *image_size))

    def glimpses(self, what: Tensor) -> Tensor:
        """Line 4: decodes ``what`` of shape ``[*, D]`` into glimpses of shape ``[*, C, h, w]``."""
        decoded = self.decoder(what) * self.scale
        shape = (self.channels, *self.glimpse_size)
        if decoded.shape[-1] != math.prod(shape):
            raise ValueError(
                f"expected a decoder that makes {math.prod(shape)} numbers, for glimpses of {shape[0]} channels and "
                f"{shape[1]}x{shape[2]} pixels, got one that makes {decoded.shape[-1]}"
            )
        return decoded.unflatten(-1, shape)

    def forward(self, objects: Objects) -> Tensor:
        """The mean image y, shape ``[*, C, H, W]``."""
        objects = trim_slots(objects)
        placement = place(objects.where, self.glimpse_size, self.image_size)
        glimpses = self.glimpses(objects.what) * objects.pres[..., None, None, None]
        # 0 away from glimpses, 1 inside, with a soft edge
        written = torch.sigmoid(20 * coverage(objects.pres, placement) - 10)
        return paste(glimpses, placement) + self.mean_image * written


def mlp_renderer(scene: SceneConfig, hidden_size: int, output_scale: float = 0.25, std: float = 0.3) -> Renderer:
    """The renderer of MLP-SQAIR (paper, D.2): a decoder with two hidden layers.

    Args:
        scene: sizes of images, glimpses and latents.
        hidden_size: units of both layers.
        output_scale: see :class:`Renderer`; a larger one lets appearances be learned faster.
        std: the standard deviation of a pixel.
    """
    decoder = MLP(scene.what_dim, [hidden_size, hidden_size], scene.channels * math.prod(scene.glimpse_size))
    return Renderer(decoder, scene.channels, scene.glimpse_size, scene.image_size, output_scale, std)


def conv_renderer(
    scene: SceneConfig, config: ConvolutionConfig | None = None, output_scale: float = 0.25, std: float = 0.3
) -> Renderer:
    """The renderer of CONV-SQAIR (paper, D.2 and E): a sub-pixel decoder.

    Args:
        scene: sizes of images, glimpses and latents.
        config: of the decoder, which has to make glimpses of that size; the default is that of moving MNIST.
        output_scale: see :class:`Renderer`.
        std: the standard deviation of a pixel.

    Raises:
        ValueError: if the decoder does not reach the glimpse size.
    """
    config = ConvolutionConfig() if config is None else config
    decoder = SubPixelDecoder(scene.what_dim, scene.channels, scene.glimpse_size, config)
    return Renderer(decoder, scene.channels, scene.glimpse_size, scene.image_size, output_scale, std)
