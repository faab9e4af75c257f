# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The propagation prior p^P(z_t^{P_t} | z_{t-1}) (Kosiorek et al. 2018, Appendix B, Eqs. 9-10)."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_sqair.networks import GRU
from pyro_sqair.scene import Objects, occupied, pad_slots
from pyro_sqair.slots import Slots


class GRUPropagationPrior(nn.Module):
    """Each object moves, changes and disappears by its own recurrent dynamics h_t = GRU(z_{t-1}, h_{t-1}).

    Args:
        what_dim: the dimension D of ``what``.
        hidden_size: units of the GRU.
        presence_bias: the logit of staying starts here: objects are expected to persist.
    """

    def __init__(self, what_dim: int, hidden_size: int, presence_bias: float = 10.0) -> None:
        super().__init__()
        self.presence_bias = presence_bias
        self.sizes = (1, 4, what_dim, 4, what_dim)
        self.gru = GRU(4 + what_dim, hidden_size)
        self.readout = nn.Linear(hidden_size, sum(self.sizes))
        self.initial_memory = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, previous: Objects, memory: Tensor, slots: Slots) -> Tensor:
        """Draws ``pres``, ``where`` and ``what`` in every slot.

        Args:
            previous: the objects of the previous frame, shape ``[*, N]``.
            memory: h_{t-1}, shape ``[*, N, hidden]``.
            slots: the slots of this phase.

        Returns:
            h_t, shape ``[*, N, hidden]``.
        """
        previous = occupied(previous)
        memory = memory[..., : previous.pres.shape[-1], :]
        memory = self.gru(torch.cat([previous.what, previous.where], -1), memory)
        pres, where, what, where_scale, what_scale = self.readout(memory).split(self.sizes, -1)
        logits = (pres.squeeze(-1) + self.presence_bias).unbind(-1)
        wheres = list(zip(where.unbind(-2), (F.softplus(where_scale) + 0.01).unbind(-2), strict=True))
        whats = list(zip(what.unbind(-2), (F.softplus(what_scale) + 0.01).unbind(-2), strict=True))
        for i in slots:
            pyro.sample("pres", dist.Bernoulli(logits=logits[i]))
            pyro.sample("where", dist.Normal(*wheres[i]).to_event(1))
            pyro.sample("what", dist.Normal(*whats[i]).to_event(1))
        return pad_slots(memory, slots.num)
