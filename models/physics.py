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
    r"""Each object goes straight on at its speed, looks as it did, and is reflected by the walls.

    What an object is expected to be is corrected by a share of what it turns out to be, as an alpha-beta filter does,
    so that the jitter of boxes does not add up to a random walk. Beyond the edge of the frame nothing can be seen:
    there the object goes on as predicted, and comes back when and where it should.

    .. code-block:: text

        surprise = z_{t-1} - expected_{t-1}          place    = expected_{t-1} + alpha surprise
                                                     velocity = velocity + beta surprise
        expected_t = reflected(place + velocity)     where_t, what_t ~ Normal(expected_t, learned)

    Args:
        what_dim: the dimension D of ``what``.
        wall: how far from the middle of the frame a *centre* can get, in units of half the frame's width and height:
            for balls of radius r in a box of side s seen through a centre crop of side c, (s - 2 r) / c.
        presence_bias: the logit of staying starts here.
    """

    def __init__(self, what_dim: int, wall: float, presence_bias: float = 5.0) -> None:
        super().__init__()
        if not wall > 0:
            raise ValueError(f"expected a wall at a distance above 0 from the middle of the frame, got {wall}")
        self.wall = wall
        self.sizes = (4 + what_dim, 2, 1)
        self.stay = nn.Parameter(torch.tensor(presence_bias))
        self.jitter = nn.Parameter(torch.full((4,), -4.0))  # the softplus of these are standard deviations
        self.fade = nn.Parameter(torch.full((what_dim,), -1.0))
        self.gains = nn.Parameter(torch.tensor([-1.0, -2.5]))  # the sigmoid of these are alpha and beta

    def forward(self, previous: Objects, memory: Tensor | None, slots: Slots) -> Tensor:
        """Draws ``pres``, ``where`` and ``what`` in every slot.

        Args:
            previous: the objects of the previous frame, shape ``[*, N]``.
            memory: what was expected of each object in that frame (logits of scale, centre in units of half the frame,
                ``what``), its velocity, and the frames since its discovery, shape ``[*, N, D + 7]``; 0 for new objects.
            slots: the slots of this phase.
        """
        centre = previous.where[..., 2:].tanh()
        seen = torch.cat([previous.where[..., :2], centre, previous.what], -1)
        if memory is None:
            memory = seen.new_zeros(*seen.shape[:-1], sum(self.sizes))
        expected, velocity, age = memory.split(self.sizes, -1)
        expected = torch.where(age > 0, expected, seen)
        # Of what has been seen but once or twice nothing is expected yet, so all is believed.
        alpha, beta = torch.where(age > 1, self.gains.sigmoid(), 1.0).split(1, -1)
        hidden = expected[..., 2:4].abs() > _EDGE
        surprise = torch.where(hidden, 0.0, centre - expected[..., 2:4])
        velocity = velocity + beta * surprise
        ahead = expected[..., 2:4] + alpha * surprise + velocity
        beyond = ahead.abs() > self.wall
        ahead = torch.where(beyond, 2 * self.wall * ahead.sign() - ahead, ahead)
        velocity = torch.where(beyond, -velocity, velocity)
        looks = expected + alpha * (seen - expected)
        expected = torch.cat([looks[..., :2], ahead, looks[..., 4:]], -1)
        where = torch.cat([looks[..., :2], ahead.clamp(-_EDGE, _EDGE).atanh()], -1)
        jitter, fade = F.softplus(self.jitter) + 0.01, F.softplus(self.fade) + 0.01
        for i in slots:
            pyro.sample("pres", dist.Bernoulli(logits=self.stay))
            pyro.sample("where", dist.Normal(where[..., i, :], jitter).to_event(1))
            pyro.sample("what", dist.Normal(expected[..., i, 4:], fade).to_event(1))
        return torch.cat([expected, velocity, age + 1], -1)
