# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The deterministic networks that VRNN's model and guide share (Kosiorek et al. 2018, D.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyro_sqair.nn.convolutions import ConvolutionEncoder, ConvolutionStack
from pyro_sqair.nn.networks import MLP, flatten_batch, join
from pyro_sqair.scene.objects import Objects, SceneConfig


@dataclass(frozen=True)
class VRNNConfig:
    """Sizes of a VRNN; the default is an MLP-VRNN of 2.0M parameters.

    The paper's Table 2 gives 2.1M for the medium-sized MLP-VRNN, but the layers listed in D.3 (three of 256 units) make
    3.5M. The defaults match the table, since the paper compares models of equal size.

    Attributes:
        latent_dim: dimension of z_t; the default equals that of SQAIR with three slots.
        hidden_size: units of every layer and of the LSTM (H, H' and J in the paper).
        hidden_layers: hidden layers of every perceptron (L and L').
        maps: feature maps of the image encoder's CNN; the decoder has them in reverse. Empty for perceptrons.
        strides: strides of the CNN.
        std: the standard deviation of a pixel, in units of intensity.
    """

    latent_dim: int = 165
    hidden_size: int = 192
    hidden_layers: int = 2
    maps: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    std: float = 0.3

    def __post_init__(self) -> None:
        if min(self.latent_dim, self.hidden_size, self.hidden_layers, *self.maps, *self.strides) < 1:
            raise ValueError(f"expected sizes of at least 1, got {self}")
        if len(self.maps) != len(self.strides):
            raise ValueError(f"expected as many strides as maps, got {self.strides} and {self.maps}")
        if not 0 < self.std < math.inf:
            raise ValueError(f"expected a positive, finite standard deviation, got {self.std}")

    def mlp(self, input_size: int, output_size: int | None = None) -> MLP:
        """A perceptron of these sizes."""
        return MLP(input_size, [self.hidden_size] * self.hidden_layers, output_size)


def conv_vrnn() -> VRNNConfig:
    """A CONV-VRNN of 2.6M parameters with the medium-sized CNN of D.3; with the 256 units of D.3 it has 4.0M."""
    return VRNNConfig(hidden_size=176, hidden_layers=1, maps=(32, 32, 32, 64, 64, 64), strides=(1, 2, 1, 2, 1, 2))


class VRNNState(NamedTuple):
    """The state that a VRNN passes from frame to frame; ``*`` is ``[B]`` or ``[K, B]``.

    Attributes:
        objects: empty, with no slots.
        hidden: of the LSTM, shape ``[*, J]``.
        cell: of the LSTM, shape ``[*, J]``.
        image_features: psi_x(x_t), features of the last image, shape ``[*, H]``.
        latent_features: psi_z(z_t), features of the last latent, shape ``[*, H]``.
        image: the mean of the last image, shape ``[*, C, H, W]``; None in a guide.
    """

    objects: Objects
    hidden: Tensor
    cell: Tensor
    image_features: Tensor
    latent_features: Tensor
    image: Tensor | None = None


class VRNNBackbone(nn.Module):
    """The recurrence o_t = LSTM(psi_x(x_{t-1}), psi_z(z_{t-1})) and its encoders psi_x and psi_z.

    Args:
        scene: sizes of images.
        config: sizes of the networks.
    """

    def __init__(self, scene: SceneConfig, config: VRNNConfig) -> None:
        super().__init__()
        self.scene = scene
        self.config = config
        size = config.hidden_size
        self.encode_image: nn.Module  # psi_x
        if config.maps:
            stack = ConvolutionStack(scene.channels, config.maps, config.strides)
            self.encode_image = ConvolutionEncoder(stack, scene.channels, scene.image_size, size)
        else:
            self.encode_image = config.mlp(scene.channels * math.prod(scene.image_size))
        self.encode_latents = config.mlp(config.latent_dim)  # psi_z
        self.lstm = nn.LSTMCell(2 * size, size)

    def init(self, batch: int, like: Tensor) -> VRNNState:
        """The state before the first frame, all zeros."""
        zeros = like.new_zeros(batch, self.lstm.hidden_size)
        ids = torch.zeros(batch, 0, dtype=torch.int64, device=like.device)
        pres, where, what = (like.new_zeros(batch, 0, *event) for event in ((), (4,), (1,)))
        return VRNNState(Objects(pres, where, what, ids), zeros, zeros, zeros, zeros)

    def forward(self, state: VRNNState) -> tuple[Tensor, Tensor]:
        """One step of the LSTM: the hidden state, which is o_t, and the cell, each of shape ``[*, J]``."""
        inputs = join(state.image_features, state.latent_features)
        batch, (inputs, hidden, cell) = flatten_batch(inputs, state.hidden, state.cell)
        hidden, cell = self.lstm(inputs, (hidden, cell))
        return hidden.reshape(*batch, -1), cell.reshape(*batch, -1)
