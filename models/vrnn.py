# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The VRNN generative model (Chung et al. 2015; Kosiorek et al. 2018, D.3): one latent for the whole frame."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from pyro_sqair.nn.backbone import VRNNBackbone, VRNNState
from pyro_sqair.nn.convolutions import MirroredDecoder
from pyro_sqair.nn.networks import join, positive_scale
from pyro_sqair.scene.distributions import ImageNormal
from pyro_sqair.scene.program import Program
from pyro_sqair.scene.slots import Prefix


class VRNN(Program):
    r"""A recurrent model with one latent per frame and no objects.

    .. code-block:: text

        x_{t-1}, z_{t-1} --LSTM--> o_t --> z_t --> x_t        z_t ~ Normal(MLP(o_t))
                                    +---------------^         x_t ~ Normal(psi_dec(psi_z(z_t), o_t))

        frame_0/z     [K, B] 165       frame_1/z     ...
        frame_0/image [B] C H W        frame_1/image ...

    Args:
        backbone: the recurrent network, shared with the guide.
    """

    generates = True

    def __init__(self, backbone: VRNNBackbone) -> None:
        scene, config = backbone.scene, backbone.config
        super().__init__(scene)
        self.backbone = backbone
        size = config.hidden_size
        self.prior = config.mlp(size, 2 * config.latent_dim)
        self.decoder: nn.Module  # psi_dec
        if config.maps:
            self.decoder = MirroredDecoder(2 * size, scene.channels, scene.image_size, config.maps, config.strides)
        else:
            self.decoder = config.mlp(2 * size, scene.channels * math.prod(scene.image_size))

    def init(self, batch: int, like: Tensor | None = None) -> VRNNState:  # type: ignore[override]
        """See :meth:`Program.init`."""
        return self.part("backbone").init(batch, next(self.parameters()) if like is None else like)

    def step(self, t: int, state: VRNNState, frame: Tensor | None = None) -> VRNNState:  # type: ignore[override]
        """One frame; without a frame, one is drawn and is an input of the next step. See :meth:`Program.step`."""
        backbone = self.part("backbone")
        with Prefix(f"frame_{t}"):
            output, cell = backbone(state)
            loc, scale = self.part("prior")(output).chunk(2, -1)
            z = pyro.sample("z", dist.Normal(loc, positive_scale(scale)).to_event(1))
            latent_features = backbone.encode_latents(z)
            mean = self.part("decoder")(join(latent_features, output))
            mean = mean.unflatten(-1, (self.scene.channels, *self.scene.image_size))
            image = pyro.sample("image", ImageNormal(mean, backbone.config.std), obs=frame)
            image_features = backbone.encode_image(image.flatten(-3))
        return VRNNState(state.objects, output, cell, image_features, latent_features, mean)
