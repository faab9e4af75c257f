# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Ablations of SQAIR's guide: components to pass to it in place of the paper's.

The proposal glimpse limits what the relation RNN sees of the frame to the location where an object is expected. The
paper's first version used an encoding of the whole image instead, as discovery does, and objects swapped identities
(Kosiorek et al. 2018, Appendices A and F, Fig. 9). That is :class:`WholeImage`. With :class:`NoView` the relation RNN
sees nothing of the frame. :class:`ForgetfulPropagationGuide` propagates nothing: all objects are new in each frame.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from pyro_sqair.scene.objects import Objects
from pyro_sqair.scene.slots import Slots


class WholeImage(nn.Module):
    """A :class:`~pyro_sqair.guides.View` of the whole image: line 3 of Algorithm 3 instead of lines 6-8 of Algorithm 2.

    Args:
        image_encoder: maps flat images of shape ``[B, C H W]`` to ``[B, size]``; the paper shares discovery's.
        size: the number of features.
    """

    def __init__(self, image_encoder: nn.Module, size: int) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.size = size

    def forward(self, frame: Tensor, previous: Objects, memory: Tensor, mask: Tensor) -> Tensor:
        """The encoded image, the same for all objects, shape ``[B, 1, size]``."""
        return self.image_encoder(frame.flatten(-3)).unsqueeze(-2)


class NoView(nn.Module):
    """A :class:`~pyro_sqair.guides.View` without features: the guide sees only the final glimpse of each object."""

    size = 0

    def forward(self, frame: Tensor, previous: Objects, memory: Tensor, mask: Tensor) -> Tensor:
        """Shape ``[*, n, 0]``."""
        return memory[..., :0]


class ForgetfulPropagationGuide:
    """Removes every object, so all objects are new in each frame.

    With a probability of exactly zero, importance weights would be biased: no particle would contain an object that
    stays. So an object stays with a small probability, with ``where`` and ``what`` drawn around the previous ones, and
    its presence then adds -log(stay) nats (13.8) to the log weight. The mean weight is an unbiased estimate of p(x).
    With the default such particles are so rare that in practice the bound is that of discovery alone.

    Args:
        stay: the probability that an object stays.
        std: the standard deviation of its ``where`` and ``what`` around the previous ones.

    Raises:
        ValueError: if `stay` is not in (0, 1) or `std` is not positive.
    """

    def __init__(self, stay: float = 1e-6, std: float = 1.0) -> None:
        if not 0 < stay < 1 or not std > 0:
            raise ValueError(f"expected a probability of staying in (0, 1) and std above 0, got {stay} and {std}")
        self.stay = stay
        self.std = std

    def __call__(self, frame: Tensor, previous: Objects, memory: Tensor | None, slots: Slots) -> None:
        """Draws ``where``, ``what`` and ``pres`` in every slot; there is no memory."""
        stay = frame.new_tensor(self.stay)
        for i in slots:
            pyro.sample("where", dist.Normal(previous.where[..., i, :], self.std).to_event(1))
            pyro.sample("what", dist.Normal(previous.what[..., i, :], self.std).to_event(1))
            pyro.sample("pres", dist.Bernoulli(stay))
