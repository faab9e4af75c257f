# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""A propagation prior that knows physics: straight lines, and walls that objects bounce off."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_sqair.scene import Objects
from pyro_sqair.slots import Slots

_EDGE = 0.995  # of the frame, in units of its half: a centre cannot lie further out, for tanh(t) is below 1


class BouncingPrior(nn.Module):
    """Each object goes straight on at its speed and is reflected by the walls; how surely, is learned.

    It measures an object's velocity between the last two frames. Beyond the edge of the frame nothing can be measured:
    there the object goes on as predicted, so that it comes back when and where it should.

    Args:
        what_dim: the dimension D of ``what``, which stays as it was but for noise.
        wall: how far from the middle of the frame a *centre* can get, in units of half the frame's width and height:
            for balls of radius r in a box of side s seen through a centre crop of side c, (s - 2 r) / c.
        presence_bias: the logit of staying starts here.
    """

    def __init__(self, what_dim: int, wall: float, presence_bias: float = 5.0) -> None:
        super().__init__()
        if not wall > 0:
            raise ValueError(f"expected a wall at a distance above 0 from the middle of the frame, got {wall}")
        self.wall = wall
        self.stay = nn.Parameter(torch.tensor(presence_bias))
        self.jitter = nn.Parameter(torch.full((4,), -2.0))  # the softplus of these are standard deviations
        self.fade = nn.Parameter(torch.full((what_dim,), -1.0))

    def forward(self, previous: Objects, memory: Tensor | None, slots: Slots) -> Tensor:
        """Draws ``pres``, ``where`` and ``what`` in every slot.

        Args:
            previous: the objects of the previous frame, shape ``[*, N]``.
            memory: where an object was predicted to be in that frame, at what velocity, from where, and whether there
                was a prediction, shape ``[*, N, 7]``, in units of half the frame; 0 for new objects.
            slots: the slots of this phase.
        """
        if memory is None:
            memory = previous.where.new_zeros(*previous.pres.shape, 7)
        predicted, velocity, before, known = memory.split([2, 2, 2, 1], -1)
        position = previous.where[..., 2:].tanh()
        outside = (known > 0) & (predicted.abs() > _EDGE)
        # What was measured across a reflection is no velocity; the prediction has turned it round already.
        bounced = (before + velocity - predicted).abs() > 1e-6
        velocity = torch.where(outside | bounced, velocity, position - before) * known
        position = torch.where(outside, predicted, position)
        ahead = position + velocity
        over = ahead.abs() > self.wall
        predicted = torch.where(over, 2 * self.wall * ahead.sign() - ahead, ahead)
        shift = predicted.clamp(-_EDGE, _EDGE).atanh()
        where = torch.cat([previous.where[..., :2].expand(shift.shape), shift], -1)
        jitter, fade = F.softplus(self.jitter) + 0.01, F.softplus(self.fade) + 0.01
        for i in slots:
            pyro.sample("pres", dist.Bernoulli(logits=self.stay))
            pyro.sample("where", dist.Normal(where[..., i, :], jitter).to_event(1))
            pyro.sample("what", dist.Normal(previous.what[..., i, :], fade).to_event(1))
        return torch.cat([predicted, torch.where(over, -velocity, velocity), position, torch.ones_like(known)], -1)
