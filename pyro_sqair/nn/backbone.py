# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The deterministic backbone of VRNN, which its model and its guide share (Kosiorek et al. 2018, D.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyro_sqair.nn.convolutions import ConvolutionEncoder, ConvolutionStack
from pyro_sqair.nn.networks import MLP
from pyro_sqair.scene.objects import Objects, SceneConfig, batch_shape


@dataclass(frozen=True)
class VRNNConfig:
    """Sizes of a VRNN; the default is an MLP-VRNN of 2.0M parameters.

    The paper's medium-sized one has 2.1M by its Table 2, but the layers that D.3 lists, three of 256 units, make 3.5M.
    Models are compared at equal size, so the table decides.

    Attributes:
        latent_dim: of z_t, as many numbers as SQAIR with three slots has.
        hidden_size: units of every layer, and of the LSTM (the paper's H, H' and J).
        hidden_layers: of every perceptron (L and L').
        maps: feature maps of the CNN that looks at images, and in reverse of the one that draws them; none for MLPs.
        strides: of these.
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
        if not self.std > 0:
            raise ValueError(f"expected a positive standard deviation, got {self.std}")

    def mlp(self, input_size: int, output_size: int | None = None) -> MLP:
        """A perceptron of these sizes."""
        return MLP(input_size, [self.hidden_size] * self.hidden_layers, output_size)


def conv_vrnn() -> VRNNConfig:
    """A CONV-VRNN of 2.6M parameters with the medium-sized CNN of D.3; with 256 units as there it has 4.0M."""
    return VRNNConfig(hidden_size=176, hidden_layers=1, maps=(32, 32, 32, 64, 64, 64), strides=(1, 2, 1, 2, 1, 2))


class VRNNState(NamedTuple):
    """What a VRNN hands from one frame to the next; ``*`` is ``[B]`` or ``[K, B]``.

    Attributes:
        objects: none, in no slots; VRNN knows no objects.
        hidden: of the LSTM, shape ``[*, J]``.
        cell: of the LSTM, shape ``[*, J]``.
        seen: psi_x(x_t), the features of the last image, shape ``[*, H]``.
        thought: psi_z(z_t), the features of the last latent, shape ``[*, H]``.
        image: the mean of the last image, shape ``[*, C, H, W]``; None in a guide.
    """

    objects: Objects
    hidden: Tensor
    cell: Tensor
    seen: Tensor
    thought: Tensor
    image: Tensor | None = None


class VRNNBackbone(nn.Module):
    """An LSTM over what was seen and thought, o_t = LSTM(psi_x(x_{t-1}), psi_z(z_{t-1})).

    Args:
        scene: sizes of images.
        config: sizes of the networks.
    """

    def __init__(self, scene: SceneConfig, config: VRNNConfig) -> None:
        super().__init__()
        self.scene = scene
        size = config.hidden_size
        self.see: nn.Module  # psi_x
        if config.maps:
            stack = ConvolutionStack(scene.channels, config.maps, config.strides)
            self.see = ConvolutionEncoder(stack, scene.channels, scene.image_size, size)
        else:
            self.see = config.mlp(scene.channels * math.prod(scene.image_size))
        self.think = config.mlp(config.latent_dim)  # psi_z
        self.lstm = nn.LSTMCell(2 * size, size)

    def init(self, batch: int, like: Tensor) -> VRNNState:
        """The state before the first frame: nothing seen, nothing thought."""
        nothing = like.new_zeros(batch, self.lstm.hidden_size)
        nobody = like.new_zeros(batch, 0)
        ids = torch.zeros(batch, 0, dtype=torch.int64, device=like.device)
        objects = Objects(nobody, nobody.unsqueeze(-1).expand(-1, -1, 4), nobody.unsqueeze(-1), ids)
        return VRNNState(objects, nothing, nothing, nothing, nothing)

    def forward(self, state: VRNNState) -> tuple[Tensor, Tensor]:
        """One step of the LSTM: the hidden state, which is o_t, and the cell, each of shape ``[*, J]``."""
        parts = (state.seen, state.thought, state.hidden, state.cell)
        batch = batch_shape(*(part.shape[:-1] for part in parts))
        seen, thought, hidden, cell = (part.expand(*batch, -1).reshape(-1, part.shape[-1]) for part in parts)
        hidden, cell = self.lstm(torch.cat([seen, thought], -1), (hidden, cell))
        return hidden.reshape(*batch, -1), cell.reshape(*batch, -1)
