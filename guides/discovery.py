# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Inference for discovery, q^D(D_t, z_t^{D_t} | x_t, z_t^{P_t}) (Kosiorek et al. 2018, Algorithm 3)."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_sqair.guides.baselines import baseline_options
from pyro_sqair.guides.glimpse import GlimpseEncoder
from pyro_sqair.nn.networks import MLP, NoContext, SetEncoder, VanillaRNN, join, positive_scale
from pyro_sqair.scene.objects import Objects
from pyro_sqair.scene.slots import Slots


def start_from(where: MLP, box: tuple[float, ...]) -> None:
    """Moves the mean that a fresh network gives ``where`` to a box, given as logits."""
    if len(box) != 4:
        raise ValueError(f"expected the four logits of a box to search from, got {tuple(box)}")
    output = where[-1]
    assert isinstance(output, nn.Linear)
    with torch.no_grad():
        output.bias[:4] += output.bias.new_tensor(box)


class DiscoveryGuide(nn.Module):
    """Looks at the whole image and at what was propagated, and picks out new objects one by one.

    Presence is drawn last, when the object has been looked at, as in the released code (Algorithm 3 draws it first).

    Args:
        image_encoder: maps flat images of shape ``[B, C H W]`` to ``[B, image_features]``.
        image_features: size of its output.
        encoder: summarises the propagated objects (Eq. 6).
        glimpse_encoder: shared with propagation.
        what_dim: the dimension D of ``what``.
        hidden_size: units of the recurrent network and the perceptrons.
        presence_bias: the logit of finding one more object starts here.
        scale_bias: the softplus of this is where the standard deviations of ``where`` start.
        search: about where the means of ``where`` start, as logits; None for half the image's sides, in the middle.
        baseline: predicts the cost downstream of ``pres`` from what is known before that is drawn, ``[*, F]`` to
            ``[*]`` where F = hidden_size + what_dim, for :class:`~pyro_sqair.infer.NVIL`; it learns by its own loss.
    """

    def __init__(
        self,
        image_encoder: nn.Module,
        image_features: int,
        encoder: SetEncoder | NoContext,
        glimpse_encoder: GlimpseEncoder,
        what_dim: int,
        hidden_size: int,
        presence_bias: float = 1.0,
        scale_bias: float = -3.0,
        search: tuple[float, ...] | None = None,
        baseline: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.encoder = encoder
        self.glimpse_encoder = glimpse_encoder
        self.what_dim = what_dim
        # may another object be found, and the what, where and pres found before
        self.rnn = VanillaRNN([image_features, encoder.output_size], 1 + what_dim + 4 + 1, hidden_size)
        self.where = MLP(hidden_size, [hidden_size, hidden_size], 8)
        if search is not None:
            start_from(self.where, search)
        self.scale_bias = nn.Parameter(torch.tensor(scale_bias))
        self.pres = MLP(hidden_size + what_dim, [hidden_size // 2], 1, output_bias=presence_bias)
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
            allowed = slots.is_open(i).to(frame.dtype)
            x = join(allowed.unsqueeze(-1), what, where, pres.unsqueeze(-1))
            hidden = self.rnn(context, x, hidden)  # line 6
            loc, scale = self.where(hidden).chunk(2, -1)
            scale = positive_scale(scale + self.scale_bias)
            where = pyro.sample("where", dist.Normal(loc, scale).to_event(1))  # line 10
            seen = self.glimpse_encoder(frame, where)  # lines 11-12
            what = pyro.sample("what", dist.Normal(*seen).to_event(1))  # line 13
            known = join(hidden, what)
            logits = self.pres(known).squeeze(-1)
            infer = baseline_options(self.baseline, known)
            pres = pyro.sample("pres", dist.Bernoulli(logits=logits), infer=infer)  # line 7
