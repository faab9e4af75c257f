# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Propagation of all objects at once: attention in place of the relation RNN of Algorithm 2 (Kosiorek et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_sqair.attention import SelfAttentionBlock, hide_absent
from pyro_sqair.distributions import CorrelatedNormal
from pyro_sqair.guides.glimpse import Appearance, GlimpseEncoder, GlimpseMask
from pyro_sqair.guides.propagation import GatedAppearance, SharedFactor
from pyro_sqair.networks import GRU, MLP
from pyro_sqair.scene import Objects, occupied, pad_slots
from pyro_sqair.slots import Slots


class SlotLaws(NamedTuple):
    """What is inferred of one slot, each of batch shape ``[*]``."""

    where: dist.Distribution
    what: dist.Distribution
    pres: dist.Distribution


def draw(laws: Sequence[SlotLaws], slots: Slots) -> None:
    """Draws every slot from its laws; no network runs here."""
    for i in slots:
        for name, law in laws[i]._asdict().items():
            pyro.sample(name, law)


def look(encoder: GlimpseEncoder, frame: Tensor, where: Tensor, mask: Tensor | None = None) -> Appearance:
    """Looks at all objects at once: ``where`` of shape ``[*, N, 4]``, masks and results likewise."""
    seen = encoder(frame, where.movedim(-2, 0), None if mask is None else mask.movedim(-2, 0))
    return Appearance(seen.loc.movedim(0, -2), seen.scale.movedim(0, -2))


class ParallelPropagationGuide(nn.Module):
    """Follows all objects at once: self-attention among them in place of the relation RNN.

    Everything else is that of :class:`~pyro_sqair.guides.PropagationGuide`: proposal glimpse, mask, temporal state,
    gated appearance. Permuting the objects permutes what is inferred for them.

    Args:
        glimpse_encoder: shared with discovery.
        what_dim: the dimension D of ``what``.
        hidden_size: units of every network.
        presence_bias: the logit of an object's staying starts here.
        scale_bias: the softplus of this is where the standard deviations of ``where`` start.
    """

    def __init__(
        self,
        glimpse_encoder: GlimpseEncoder,
        what_dim: int,
        hidden_size: int,
        presence_bias: float = 5.0,
        scale_bias: float = -4.0,
    ) -> None:
        super().__init__()
        self.glimpse_encoder = glimpse_encoder
        self.proposal = MLP(hidden_size, [128], 4)
        self.mask = GlimpseMask(hidden_size, glimpse_encoder.glimpse_size)
        self.embed = nn.Linear(2 * what_dim + 4 + hidden_size, hidden_size)
        self.relation = SelfAttentionBlock(hidden_size)
        self.where = MLP(2 * hidden_size + 4, [hidden_size, hidden_size], 8)
        self.scale_bias = nn.Parameter(torch.tensor(scale_bias))
        self.factor = SharedFactor(4)
        self.temporal = GRU(hidden_size + 4 + 2 * what_dim, hidden_size)
        self.what = GatedAppearance(hidden_size, what_dim)
        self.pres = MLP(2 * hidden_size + what_dim, [hidden_size // 2], 1, output_bias=presence_bias)
        self.register_buffer("initial_memory", torch.zeros(hidden_size), persistent=False)

    def forward(self, frame: Tensor, previous: Objects, memory: Tensor, slots: Slots) -> Tensor:
        """Draws ``where``, ``what`` and ``pres`` in every slot.

        Args:
            frame: x_t, shape ``[B, C, H, W]``.
            previous: z_{t-1}, shape ``[*, N]``.
            memory: h_{t-1}^T, shape ``[*, N, hidden]``.
            slots: the slots of this phase.

        Returns:
            h_t^T, shape ``[*, N, hidden]``.
        """
        laws, memory = self.laws(frame, previous, memory)
        draw(laws, slots)
        return pad_slots(memory, slots.num)

    def laws(self, frame: Tensor, previous: Objects, memory: Tensor) -> tuple[list[SlotLaws], Tensor]:
        """What is inferred of every object before any is drawn, and h_t^T; see :meth:`forward`."""
        previous = occupied(previous)
        memory = memory[..., : previous.pres.shape[-1], :]
        mask = self.mask(memory)
        proposed, _ = look(self.glimpse_encoder, frame, previous.where + 0.1 * self.proposal(memory), mask)
        objects = self.embed(torch.cat([proposed, previous.what, previous.where, memory], -1))
        relation = self.relation(objects, hide_absent(previous.pres))

        change, scale = self.where(torch.cat([relation, previous.where, memory], -1)).chunk(2, -1)
        loc, scale = previous.where + change, F.softplus(scale + self.scale_bias) + 0.01
        seen = look(self.glimpse_encoder, frame, loc, mask)
        memory = self.temporal(torch.cat([relation, loc, *seen], -1), memory)
        what = self.what(memory, previous.what, *seen).base_dist
        logits = self.pres(torch.cat([relation, memory, what.loc], -1)).squeeze(-1)

        factor = self.factor()
        # Taken apart once: the gradient of an indexed slice is a whole tensor of zeros with that slice in it.
        parts = (part.unbind(-2) for part in (loc, scale, what.loc, what.scale))
        return [
            SlotLaws(CorrelatedNormal(w, s, factor), dist.Normal(a, d).to_event(1), dist.Bernoulli(logits=p))
            for w, s, a, d, p in zip(*parts, logits.unbind(-1), strict=True)
        ], memory
