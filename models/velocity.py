# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""A propagation prior with a latent of its own: objects that keep their velocity."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_sqair.scene import Objects
from pyro_sqair.shapes import batch_shape
from pyro_sqair.slots import Slots


class ConstantVelocityPrior(nn.Module):
    r"""Each object has a velocity, which wanders slowly, and moves by it.

    .. code-block:: text

        velocity_{t-1} --> velocity_t --> where_t        velocity_t ~ Normal(velocity_{t-1}, change)
                               where_{t-1} --^           where_t    ~ Normal(where_{t-1} + velocity_t, jitter)

    ``velocity`` is a site of its own, in logits of ``where`` a frame. The guide has to draw it too:
    :class:`~pyro_sqair.guides.WithVelocity` adds it to any propagation guide.

    Args:
        what_dim: the dimension D of ``what``, which stays as it was but for noise.
        presence_bias: the logit of staying starts here.
    """

    def __init__(self, what_dim: int, presence_bias: float = 5.0) -> None:
        super().__init__()
        self.stay = nn.Parameter(torch.tensor(presence_bias))
        # the softplus of these are standard deviations
        self.first = nn.Parameter(torch.full((4,), -1.0))
        self.change = nn.Parameter(torch.full((4,), -2.0))
        self.jitter = nn.Parameter(torch.full((4,), -3.0))
        self.fade = nn.Parameter(torch.full((what_dim,), -1.0))

    def forward(self, previous: Objects, memory: Tensor | None, slots: Slots) -> Tensor:
        """Draws ``pres``, ``velocity``, ``where`` and ``what`` in every slot.

        Args:
            previous: the objects of the previous frame, shape ``[*, N]``.
            memory: velocity, and whether there was one, shape ``[*, N, 5]``; 0 for new objects.
            slots: the slots of this phase.
        """
        if memory is None:
            memory = previous.where.new_zeros(*previous.pres.shape, 5)
        first, change, jitter, fade = (F.softplus(s) + 0.01 for s in (self.first, self.change, self.jitter, self.fade))
        velocities = []
        for i in slots:
            before, known = memory[..., i, :4], memory[..., i, 4:]
            pyro.sample("pres", dist.Bernoulli(logits=self.stay))
            spread = torch.where(known > 0, change, first)
            velocity = pyro.sample("velocity", dist.Normal(before, spread).to_event(1))
            pyro.sample("where", dist.Normal(previous.where[..., i, :] + velocity, jitter).to_event(1))
            pyro.sample("what", dist.Normal(previous.what[..., i, :], fade).to_event(1))
            velocities.append(velocity)
        batch = batch_shape(memory.shape[:-2], *(v.shape[:-1] for v in velocities))
        rest = [memory.new_zeros(4)] * (slots.num - len(velocities))
        moving = torch.stack([v.expand(*batch, 4) for v in [*velocities, *rest]], -2)
        return torch.cat([moving, torch.ones_like(moving[..., :1])], -1)
