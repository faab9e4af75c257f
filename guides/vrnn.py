# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The VRNN inference program (Chung et al. 2015; Kosiorek et al. 2018, D.3)."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor

from pyro_sqair.nn.backbone import VRNNBackbone, VRNNState
from pyro_sqair.nn.networks import join, positive_scale
from pyro_sqair.scene.program import Program
from pyro_sqair.scene.slots import Prefix


class VRNNGuide(Program):
    """q(z_t | z_{t-1}, x_{<=t}): a Gaussian whose mean and standard deviation are perceptrons of [o_t, psi_x(x_t)].

    Args:
        backbone: the recurrent network, shared with the model.
    """

    def __init__(self, backbone: VRNNBackbone) -> None:
        super().__init__(backbone.scene)
        config = backbone.config
        self.backbone = backbone
        self.loc = config.mlp(2 * config.hidden_size, config.latent_dim)
        self.scale = config.mlp(2 * config.hidden_size, config.latent_dim)

    def init(self, batch: int, like: Tensor | None = None) -> VRNNState:  # type: ignore[override]
        """See :meth:`Program.init`."""
        return self.part("backbone").init(batch, next(self.parameters()) if like is None else like)

    def step(self, t: int, state: VRNNState, frame: Tensor | None = None) -> VRNNState:  # type: ignore[override]
        """Infers the latent of one frame. See :meth:`Program.step`."""
        if frame is None:
            raise ValueError(f"expected a frame in step {t} of the guide, got None")
        backbone = self.part("backbone")
        with Prefix(f"frame_{t}"):
            output, cell = backbone(state)
            image_features = backbone.encode_image(frame.flatten(-3))
            features = join(output, image_features)
            loc, scale = self.part("loc")(features), positive_scale(self.part("scale")(features))
            z = pyro.sample("z", dist.Normal(loc, scale).to_event(1))
        return VRNNState(state.objects, output, cell, image_features, backbone.encode_latents(z))
