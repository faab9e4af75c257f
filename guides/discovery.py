# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Inference for discovery, q^D(D_t, z_t^{D_t} | x_t, z_t^{P_t}) (Kosiorek et al. 2018, Algorithm 3)."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_sqair.guides.baselines import baseline_options
from pyro_sqair.guides.vision import Vision
from pyro_sqair.nn.networks import MLP, NoContext, SetEncoder, VanillaRNN, join, positive_scale
from pyro_sqair.scene.objects import Objects, SceneConfig
from pyro_sqair.scene.slots import Slots


class DiscoveryGuide(nn.Module):
    """Finds new objects one by one, given the whole image and the propagated objects.

    Presence is drawn after ``where`` and ``what``, as in the released code (Algorithm 3 draws it first).

    Args:
        scene: sizes shared with the model. The initial mean of ``where`` is a box in the middle of the image, of the
            objects' size if it is known and otherwise of half the image's sides.
        vision: encoders of the image and of glimpses; propagation shares the latter.
        encoder: summarises the propagated objects (Eq. 6).
        hidden_size: units of the recurrent network and the perceptrons.
        baseline: predicts the cost downstream of ``pres`` from the hidden state and ``what``, ``[*, F]`` to ``[*]``
            with F = hidden_size + D, for :class:`~pyro_sqair.infer.NVIL`. It is trained by its own loss.
    """

    def __init__(
        self,
        scene: SceneConfig,
        vision: Vision,
        encoder: SetEncoder | NoContext,
        hidden_size: int,
        baseline: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.image_encoder = vision.image
        self.encoder = encoder
        self.glimpse_encoder = vision.glimpse
        self.what_dim = scene.what_dim
        # The input is a flag for a free slot, and what, where and pres of the previous slot.
        latent = self.what_dim + 4 + 1
        self.rnn = VanillaRNN([vision.image_features, encoder.output_size], 1 + latent, hidden_size)
        self.where = MLP(hidden_size, [hidden_size, hidden_size], 8)
        if scene.box is not None:
            output = self.where[-1]
            assert isinstance(output, nn.Linear)
            with torch.no_grad():
                output.bias[:4] += torch.tensor(scene.box)
        self.scale_bias = nn.Parameter(torch.tensor(-3.0))  # for small initial standard deviations of ``where``
        self.pres = MLP(hidden_size + self.what_dim, [hidden_size // 2], 1, output_bias=1.0)
        self.baseline = baseline

    def forward(self, frame: Tensor, propagated: Objects, slots: Slots) -> None:
        """Draws ``where``, ``what`` and ``pres`` in every slot.

        Args:
            frame: x_t, shape ``[B, C, H, W]``.
            propagated: z_t^{P_t}.
            slots: the slots of this phase.
        """
        image = self.image_encoder(frame.flatten(-3))  # line 3
        context = self.rnn.context(image, self.encoder(propagated))  # line 4
        hidden = self.rnn.initial
        what, where = frame.new_zeros(self.what_dim), frame.new_zeros(4)
        pres = frame.new_ones(())
        for i in slots:  # line 5
            is_open = slots.is_open(i).to(frame.dtype)
            x = join(is_open.unsqueeze(-1), what, where, pres.unsqueeze(-1))
            hidden = self.rnn(context, x, hidden)  # line 6
            loc, scale = self.where(hidden).chunk(2, -1)
            scale = positive_scale(scale + self.scale_bias)
            where = pyro.sample("where", dist.Normal(loc, scale).to_event(1))  # line 10
            appearance = self.glimpse_encoder(frame, where)  # lines 11-12
            what = pyro.sample("what", dist.Normal(*appearance).to_event(1))  # line 13
            features = join(hidden, what)
            logits = self.pres(features).squeeze(-1)
            infer = baseline_options(self.baseline, features)
            pres = pyro.sample("pres", dist.Bernoulli(logits=logits), infer=infer)  # line 7
