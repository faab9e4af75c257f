# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""A guide for the velocity that a prior may draw."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_sqair.guides.sqair import PropagationGuideProgram
from pyro_sqair.scene import Objects
from pyro_sqair.slots import Slots


class WithVelocity(nn.Module):
    """Adds the site ``velocity`` to a propagation guide, for :class:`~pyro_sqair.models.ConstantVelocityPrior`.

    The velocity is about what ``where`` has just changed by: Normal(gain (where_t - where_{t-1}), spread).

    Args:
        propagation: the guide that draws everything else.
    """

    def __init__(self, propagation: PropagationGuideProgram) -> None:
        super().__init__()
        self.propagation = propagation
        self.gain = nn.Parameter(torch.full((4,), 0.9))
        self.spread = nn.Parameter(torch.full((4,), -2.5))  # the softplus of it is the standard deviation

    @property
    def initial_memory(self) -> Tensor | None:
        """What the propagation guide remembers of an object just discovered."""
        return getattr(self.propagation, "initial_memory", None)

    def forward(self, frame: Tensor, previous: Objects, memory: Tensor | None, slots: Slots) -> Tensor | None:
        """Draws what the propagation guide draws, and at the end of every slot ``velocity``.

        Args:
            frame: x_t, shape ``[B, C, H, W]``.
            previous: z_{t-1}, shape ``[*, N]``.
            memory: of the propagation guide.
            slots: the slots of this phase.
        """
        spread = F.softplus(self.spread) + 0.01

        def draw(i: int) -> None:
            change = slots.current["where"] - previous.where[..., i, :]
            pyro.sample("velocity", dist.Normal(self.gain * change, spread).to_event(1))

        slots.then(draw)
        return self.propagation(frame, previous, memory, slots)
