# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Convolutional encoders and decoders of CONV-SQAIR and CONV-VRNN (Kosiorek et al. 2018, Appendices D.2, D.3 and E)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from pyro_sqair.nn.networks import MLP
from pyro_sqair.scene.objects import SceneConfig


@dataclass(frozen=True)
class ConvolutionConfig:
    """Sizes of the convolutional networks; the defaults are those of CONV-SQAIR on moving MNIST (D.2).

    All filters are 3x3.

    Attributes:
        encoder_maps: feature maps of the encoders' layers.
        encoder_strides: strides of the encoders' layers.
        decoder_units: units of the decoder's first fully-connected layer.
        decoder_start: (h, w) of the feature maps that the second fully-connected layer makes.
        decoder_start_maps: the number of these feature maps.
        decoder_maps: feature maps of the sub-pixel layers.
        decoder_strides: upscaling factors of the sub-pixel layers.
    """

    encoder_maps: tuple[int, ...] = (16, 32, 32, 64)
    encoder_strides: tuple[int, ...] = (2, 2, 1, 1)
    decoder_units: int = 256
    decoder_start: tuple[int, int] = (5, 5)
    decoder_start_maps: int = 32
    decoder_maps: tuple[int, ...] = (32, 64, 64)
    decoder_strides: tuple[int, ...] = (1, 2, 2)

    def __post_init__(self) -> None:
        for name in ("encoder", "decoder"):
            maps, strides = getattr(self, f"{name}_maps"), getattr(self, f"{name}_strides")
            if len(maps) != len(strides) or not maps:
                raise ValueError(f"expected as many {name}_strides as {name}_maps, at least one, got {strides}, {maps}")
        sizes = (*self.encoder_maps, *self.encoder_strides, *self.decoder_maps, *self.decoder_strides)
        if min(*sizes, self.decoder_units, *self.decoder_start, self.decoder_start_maps) < 1:
            raise ValueError(f"expected sizes of at least 1, got {self}")

    @property
    def decoded_size(self) -> tuple[int, int]:
        """The height and width of the glimpses that the decoder makes."""
        factor = math.prod(self.decoder_strides)
        return self.decoder_start[0] * factor, self.decoder_start[1] * factor


def pedestrian_convolutions() -> ConvolutionConfig:
    """The networks for tall, narrow pedestrians: glimpses of 28x12 pixels (Appendix E)."""
    return ConvolutionConfig(
        encoder_maps=(16, 32, 64, 64),
        encoder_strides=(2, 2, 2, 1),
        decoder_units=128,
        decoder_start=(7, 3),
        decoder_start_maps=64,
        decoder_maps=(64, 64),
        decoder_strides=(2, 2),
    )


def _layer_sizes(size: tuple[int, int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """(h, w) of the input and of each layer's output; a stride divides the sides, rounded up."""
    sizes = [size]
    for stride in strides:
        height, width = sizes[-1]
        sizes.append((-(-height // stride), -(-width // stride)))
    return sizes


class ConvolutionStack(nn.Sequential):
    """3x3 convolutions, each followed by an ELU; a stride divides the sides, rounded up.

    Args:
        channels: C.
        maps: feature maps of each layer.
        strides: stride of each layer.
    """

    def __init__(self, channels: int, maps: Sequence[int], strides: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        for size, stride in zip(maps, strides, strict=True):
            layers += [nn.Conv2d(channels, size, 3, stride, padding=1), nn.ELU()]
            channels = size
        super().__init__(*layers)
        self.channels = channels
        self.strides = tuple(strides)

    def features(self, size: tuple[int, int]) -> int:
        """The number of output features for an image of that height and width."""
        return self.channels * math.prod(_layer_sizes(size, self.strides)[-1])


class ConvolutionEncoder(nn.Module):
    """A :class:`ConvolutionStack`, which encoders may share, followed by a fully-connected layer.

    Args:
        stack: the convolutions.
        channels: C.
        size: (h, w) of the images, pixels.
        output_size: units of the fully-connected layer.
    """

    def __init__(self, stack: ConvolutionStack, channels: int, size: tuple[int, int], output_size: int) -> None:
        super().__init__()
        self.stack = stack
        self.shape = (channels, *size)
        self.output = nn.Linear(stack.features(size), output_size)

    def forward(self, flat: Tensor) -> Tensor:
        """Flat images of shape ``[*, C h w]`` to features of shape ``[*, output]``."""
        images = flat.reshape(-1, *self.shape)
        features = F.elu(self.output(self.stack(images).flatten(1)))
        return features.reshape(*flat.shape[:-1], -1)


class SubPixelDecoder(nn.Module):
    """Fully-connected layers, then convolutions that upscale by rearranging feature maps (Shi et al. 2016).

    A layer with stride s computes s² times its number of feature maps and rearranges them into maps s times as large.

    Args:
        scene: sizes of latents and glimpses.
        config: sizes of the layers.

    Raises:
        ValueError: if the decoder makes glimpses of another size.
    """

    def __init__(self, scene: SceneConfig, config: ConvolutionConfig) -> None:
        super().__init__()
        if config.decoded_size != tuple(scene.glimpse_size):
            raise ValueError(
                f"expected a decoder that makes glimpses of {tuple(scene.glimpse_size)} pixels, got one that makes "
                f"{config.decoded_size}: maps of {config.decoder_start} enlarged by strides {config.decoder_strides}"
            )
        self.start = (config.decoder_start_maps, *config.decoder_start)
        self.dense = MLP(scene.what_dim, [config.decoder_units, math.prod(self.start)])
        layers: list[nn.Module] = []
        maps = config.decoder_start_maps
        for size, stride in zip(config.decoder_maps, config.decoder_strides, strict=True):
            layers += [nn.Conv2d(maps, size * stride**2, 3, padding=1), nn.PixelShuffle(stride), nn.ELU()]
            maps = size
        self.layers = nn.Sequential(*layers, nn.Conv2d(maps, scene.channels, 3, padding=1))

    def forward(self, what: Tensor) -> Tensor:
        """``what`` of shape ``[*, D]`` to flat glimpses of shape ``[*, C h w]``."""
        maps = self.dense(what).reshape(-1, *self.start)
        return self.layers(maps).reshape(*what.shape[:-1], -1)


class MirroredDecoder(nn.Module):
    """The layers of a :class:`ConvolutionStack` transposed and in reverse, from features to an image (D.3).

    Args:
        input_size: the dimension of the input.
        channels: C.
        size: (H, W) of the image, pixels.
        maps: feature maps of the stack's layers.
        strides: strides of the stack's layers.
    """

    def __init__(
        self, input_size: int, channels: int, size: tuple[int, int], maps: Sequence[int], strides: Sequence[int]
    ) -> None:
        super().__init__()
        sizes = _layer_sizes(size, strides)
        self.start = (maps[-1], *sizes[-1])
        self.dense = MLP(input_size, [math.prod(self.start)])
        layers: list[nn.Module] = []
        outputs = [channels, *maps[:-1]]
        for i in reversed(range(len(maps))):
            # Restores the rows and columns that are lost by rounding up.
            (large_h, large_w), (h, w), stride = sizes[i], sizes[i + 1], strides[i]
            padding = (large_h - (h - 1) * stride - 1, large_w - (w - 1) * stride - 1)
            layer = nn.ConvTranspose2d(maps[i], outputs[i], 3, stride, padding=1, output_padding=padding)
            layers += [layer, nn.ELU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Shape ``[*, input]`` to flat images of shape ``[*, C H W]``."""
        maps = self.dense(x).reshape(-1, *self.start)
        return self.layers(maps).reshape(*x.shape[:-1], -1)
