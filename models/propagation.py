# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Recurrent propagation priors p^P(z_t^{P_t} | z_{t-1}) (Kosiorek et al. 2018, Appendix B, Eqs. 9-10)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_sqair.nn.networks import GRU, join, positive_scale
from pyro_sqair.nn.relations import NoRelations, Relations
from pyro_sqair.scene.objects import Objects, pad_slots, trim_slots
from pyro_sqair.scene.slots import Slots


class GRUPropagationPrior(nn.Module):
    """Each object moves, changes and disappears by its own recurrence h_t = GRU(gamma_t, h_{t-1}).

    gamma_t is z_{t-1}, with the effects of other objects if there are relations (Stanić & Schmidhuber 2019, Eq. 3).

    Args:
        what_dim: the dimension D of ``what``.
        hidden_size: units of the GRU.
        presence_bias: initial logit of presence; with the default, objects are expected to persist.
        relations: effects of objects on each other; None for SQAIR.
        scale_bias: initial standard deviations are about the softplus of this. With zero, as in the released code, they
            are wide, and the GRU gets little gradient from motion until they have shrunk.
    """

    def __init__(
        self,
        what_dim: int,
        hidden_size: int,
        presence_bias: float = 10.0,
        relations: Relations | None = None,
        scale_bias: float = 0.0,
    ) -> None:
        super().__init__()
        self.presence_bias = presence_bias
        self.relations = NoRelations() if relations is None else relations
        self.sizes = (1, 4, what_dim, 4, what_dim)
        self.gru = GRU(4 + what_dim + self.relations.size, hidden_size)
        self.readout = nn.Linear(hidden_size, sum(self.sizes))
        with torch.no_grad():
            self.readout.bias[-(4 + what_dim) :] += scale_bias
        self.initial_hidden = nn.Parameter(torch.zeros(hidden_size))

    @property
    def initial_memory(self) -> Tensor:
        """The memory of a new object, shape ``[hidden + S]``: a learned hidden state, and zeros for the relations."""
        return F.pad(self.initial_hidden, (0, self.relations.state_size))

    def forward(self, previous: Objects, memory: Tensor, slots: Slots) -> Tensor:
        """Draws ``pres``, ``where`` and ``what`` in every slot.

        Args:
            previous: the objects of the previous frame, shape ``[*, N]``.
            memory: h_{t-1} and the state of the relations, shape ``[*, N, hidden + S]``.
            slots: the slots of this phase.

        Returns:
            h_t and the new state of the relations, shape ``[*, N, hidden + S]``.
        """
        previous = trim_slots(previous)
        memory = memory[..., : previous.pres.shape[-1], :]
        hidden, relation_state = memory.split([len(self.initial_hidden), self.relations.state_size], -1)
        effect, relation_state = self.relations(previous, relation_state)
        hidden = self.gru(join(previous.what, previous.where, effect), hidden)
        pres, where, what, where_scale, what_scale = self.readout(hidden).split(self.sizes, -1)
        where, what = self.means(previous, where, what)
        logits = (pres.squeeze(-1) + self.presence_bias).unbind(-1)
        wheres = list(zip(where.unbind(-2), positive_scale(where_scale).unbind(-2), strict=True))
        whats = list(zip(what.unbind(-2), positive_scale(what_scale).unbind(-2), strict=True))
        for i in slots:
            pyro.sample("pres", dist.Bernoulli(logits=logits[i]))
            pyro.sample("where", dist.Normal(*wheres[i]).to_event(1))
            pyro.sample("what", dist.Normal(*whats[i]).to_event(1))
        return pad_slots(join(hidden, relation_state), slots.num)

    def means(self, previous: Objects, where: Tensor, what: Tensor) -> tuple[Tensor, Tensor]:
        """The means of ``where`` and ``what``, given the previous objects and the outputs of the GRU."""
        return where, what


class RandomWalkPrior(GRUPropagationPrior):
    """A random walk: the means are the previous values; the GRU gives standard deviations and presence.

    In the released code the logit of presence adds a tenth of the GRU's output to the *guide's* logit in the previous
    frame. A prior has no access to the latter, so here the logit is that of :class:`GRUPropagationPrior`.
    """

    def means(self, previous: Objects, where: Tensor, what: Tensor) -> tuple[Tensor, Tensor]:
        return previous.where, previous.what


class GuidedWalkPrior(GRUPropagationPrior):
    """A random walk with a scaled GRU residual: the means are the previous values plus a tenth of the GRU's output.

    Presence is as in :class:`RandomWalkPrior`.
    """

    def means(self, previous: Objects, where: Tensor, what: Tensor) -> tuple[Tensor, Tensor]:
        return previous.where + 0.1 * where, previous.what + 0.1 * what


@dataclass(frozen=True)
class GRUPriorConfig:
    """Settings of a :class:`GRUPropagationPrior`; see there."""

    scale_bias: float = 0.0

    prior: ClassVar[type[GRUPropagationPrior]] = GRUPropagationPrior

    def build(self, what_dim: int, hidden_size: int, relations: Relations | None = None) -> GRUPropagationPrior:
        """The prior with fresh weights."""
        return self.prior(what_dim, hidden_size, relations=relations, scale_bias=self.scale_bias)


@dataclass(frozen=True)
class RandomWalkConfig(GRUPriorConfig):
    """Settings of a :class:`RandomWalkPrior`."""

    prior = RandomWalkPrior


@dataclass(frozen=True)
class GuidedWalkConfig(GRUPriorConfig):
    """Settings of a :class:`GuidedWalkPrior`."""

    prior = GuidedWalkPrior
