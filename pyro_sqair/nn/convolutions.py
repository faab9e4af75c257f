# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Convolutional encoders and the sub-pixel decoder of CONV-SQAIR (Kosiorek et al. 2018, Appendices D.2 and E)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from pyro_sqair.nn.networks import MLP


@dataclass(frozen=True)
class ConvolutionConfig:
    """Sizes of the convolutional networks; the defaults are those of CONV-SQAIR on moving MNIST (D.2).

    All filters are 3x3.

    Attributes:
        encoder_maps: feature maps of the encoders' layers.
        encoder_strides: their strides.
        decoder_units: units of the decoder's first fully-connected layer.
        decoder_start: the size (h, w) of the maps into which its second one is reshaped.
        decoder_start_maps: how many maps those are.
        decoder_maps: feature maps of the sub-pixel network's layers.
        decoder_strides: how many times larger each makes them.
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
                raise ValueError(f"expected as many {name}_strides as {name}_maps, and some, got {strides} and {maps}")
        sizes = (*self.encoder_maps, *self.encoder_strides, *self.decoder_maps, *self.decoder_strides)
        if min(*sizes, self.decoder_units, *self.decoder_start, self.decoder_start_maps) < 1:
            raise ValueError(f"expected sizes of at least 1, got {self}")

    @property
    def decoded_size(self) -> tuple[int, int]:
        """The height and width of the glimpse that the decoder makes."""
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


class ConvolutionStack(nn.Sequential):
    """3x3 convolutions, each followed by an ELU; a stride s divides a side by s, rounded up.

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
        """How many numbers come out for an image of that height and width."""
        height, width = size
        for stride in self.strides:
            height, width = -(-height // stride), -(-width // stride)
        return self.channels * height * width


class ConvolutionEncoder(nn.Module):
    """A stack of convolutions, which encoders may share, and a fully-connected layer of its own.

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
    """Fully-connected layers, then convolutions that turn feature maps into resolution (Shi et al. 2016).

    A layer with stride s makes s² times its feature maps, which are then interleaved into maps s times as large.

    Args:
        what_dim: the dimension D of ``what``.
        channels: C.
        glimpse_size: (h, w) in pixels, which `config` has to make.
        config: sizes of the layers.

    Raises:
        ValueError: if the decoder does not reach the glimpse size.
    """

    def __init__(self, what_dim: int, channels: int, glimpse_size: tuple[int, int], config: ConvolutionConfig) -> None:
        super().__init__()
        if config.decoded_size != tuple(glimpse_size):
            raise ValueError(
                f"expected a decoder that makes glimpses of {tuple(glimpse_size)} pixels, got one that makes "
                f"{config.decoded_size}: maps of {config.decoder_start} enlarged by strides {config.decoder_strides}"
            )
        self.start = (config.decoder_start_maps, *config.decoder_start)
        self.dense = MLP(what_dim, [config.decoder_units, math.prod(self.start)])
        layers: list[nn.Module] = []
        maps = config.decoder_start_maps
        for size, stride in zip(config.decoder_maps, config.decoder_strides, strict=True):
            layers += [nn.Conv2d(maps, size * stride**2, 3, padding=1), nn.PixelShuffle(stride), nn.ELU()]
            maps = size
        self.layers = nn.Sequential(*layers, nn.Conv2d(maps, channels, 3, padding=1))

    def forward(self, what: Tensor) -> Tensor:
        """``what`` of shape ``[*, D]`` to flat glimpses of shape ``[*, C h w]``."""
        maps = self.dense(what).reshape(-1, *self.start)
        return self.layers(maps).reshape(*what.shape[:-1], -1)


class MirroredDecoder(nn.Module):
    """A transposed CNN: the layers of a :class:`ConvolutionStack` in reverse, from features to an image (D.3).

    Args:
        input_size: the dimension of the input.
        channels: C.
        size: (H, W) of the image, pixels.
        maps: feature maps of the stack's layers.
        strides: their strides.
    """

    def __init__(
        self,
        input_size: int,
        channels: int,
        size: tuple[int, int],
        maps: Sequence[int],
        strides: Sequence[int],
    ) -> None:
        super().__init__()
        sizes = [tuple(size)]  # of the stack's input and of what each of its layers makes
        for stride in strides:
            height, width = sizes[-1]
            sizes.append((-(-height // stride), -(-width // stride)))
        self.start = (maps[-1], *sizes[-1])
        self.dense = MLP(input_size, [math.prod(self.start)])
        layers: list[nn.Module] = []
        outputs = [channels, *maps[:-1]]
        for i in reversed(range(len(maps))):
            # What a stride rounded up on the way in is given back on the way out.
            lost = (
                sizes[i][0] - (sizes[i + 1][0] - 1) * strides[i] - 1,
                sizes[i][1] - (sizes[i + 1][1] - 1) * strides[i] - 1,
            )
            layers += [nn.ConvTranspose2d(maps[i], outputs[i], 3, strides[i], padding=1, output_padding=lost), nn.ELU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Shape ``[*, input]`` to flat images of shape ``[*, C H W]``."""
        maps = self.dense(x).reshape(-1, *self.start)
        return self.layers(maps).reshape(*x.shape[:-1], -1)
