# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The discovery prior p^D(D_t, z_t^{D_t} | z_t^{P_t}) (Kosiorek et al. 2018, Appendix B, Eqs. 7-8)."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_sqair.nn.networks import MIN_SCALE, MLP, NoContext, SetEncoder, join, positive_scale
from pyro_sqair.scene.objects import Objects, SceneConfig
from pyro_sqair.scene.slots import Slots

IMPOSSIBLE = -1e30  # a logit of probability 0; finite, so that differences and gradients are finite too


class CategoricalCount(nn.Module):
    """The learned count prior p(D_t | P_t) = Categorical(0 ... N - P_t) (Eq. 8).

    Its initial bias after the first frame favours no discoveries, as in the released code.

    Args:
        num_slots: the largest number N of objects.
    """

    def __init__(self, num_slots: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_slots + 1))
        self.later = nn.Parameter(torch.tensor([10.0] + [0.0] * num_slots))
        self.mlp = MLP(1, [10], num_slots + 1)
        self.num_slots = num_slots

    def resize(self, num_slots: int) -> None:
        """Changes N. New counts get the weights of the largest old count.

        Args:
            num_slots: the new N. The input is still the number of propagated objects divided by the old N.
        """
        index = torch.arange(num_slots + 1, device=self.bias.device).clamp(max=len(self.bias) - 1)
        output = self.mlp[-1]
        assert isinstance(output, nn.Linear)
        output.out_features = num_slots + 1
        output.weight, output.bias, self.bias, self.later = (
            nn.Parameter(parameter.detach()[index]) for parameter in (output.weight, output.bias, self.bias, self.later)
        )

    def forward(self, propagated: Objects, first: bool) -> Tensor:
        """Logits of D = 0 ... N before truncation, shape ``[*, N + 1]``.

        Args:
            propagated: the objects propagated to this frame.
            first: whether this is the first frame.
        """
        logits = self.bias if first else self.bias + self.later
        fraction = propagated.num_present.unsqueeze(-1) / self.num_slots
        return F.elu(logits + self.mlp(fraction))


class FixedCount(nn.Module):
    """A count prior without parameters: each discovered object costs a fixed number of nats.

    Args:
        first: nats per object in the first frame.
        later: nats per object in later frames.

    Raises:
        ValueError: if a cost is not from 0 to 1e6 nats. Float32 resolves a nat in the cost of several such objects.
    """

    def __init__(self, first: float, later: float) -> None:
        super().__init__()
        if not all(0 <= cost <= 1e6 for cost in (first, later)):
            raise ValueError(f"expected costs of objects from 0 to 1e6 nats, got {first} and {later}")
        self.costs = (first, later)

    def forward(self, propagated: Objects, first: bool) -> Tensor:
        """Logits of D = 0 ... N before truncation, shape ``[N + 1]``."""
        pres = propagated.pres
        return -self.costs[0 if first else 1] * torch.arange(pres.shape[-1] + 1, dtype=pres.dtype, device=pres.device)


class GeometricCount(FixedCount):
    """A geometric count prior, p(D) proportional to success^D, truncated at the number of free slots.

    Args:
        success: the ratio p(D + 1) / p(D), above 0 and at most 1.
    """

    def __init__(self, success: float) -> None:
        if not 0 < success <= 1:
            raise ValueError(f"expected success above 0 and at most 1, got {success}")
        super().__init__(-math.log(success), -math.log(success))


def presence_logits(count_logits: Tensor, room: Tensor) -> Tensor:
    """Factorises a truncated categorical count into one Bernoulli per slot (contract C6).

    Args:
        count_logits: unnormalised log-probabilities of D = 0 ... N, shape ``[*, N + 1]`` or ``[N + 1]``.
        room: the largest admissible count, shape ``[*]``; larger counts have probability zero.

    Returns:
        Logits of P(D > i | D >= i) for i = 0 ... N - 1, shape ``[*, N]``.
    """
    num = count_logits.shape[-1]
    fits = torch.arange(num, device=room.device) <= room.unsqueeze(-1)
    logits = torch.where(fits, count_logits, IMPOSSIBLE)
    # log P(D > i) up to a constant: the cumulative sum from the largest count down.
    more = logits.flip(-1).logcumsumexp(-1).flip(-1)[..., 1:]
    return torch.where(fits[..., 1:], more - logits[..., :-1], IMPOSSIBLE)


class AutoregressiveWhere(nn.Module):
    """A small recurrent prior of ``where``, conditioned on the propagated objects and on the slots before.

    With the default mean, the initial distribution is that of boxes of about an eighth of the image's sides, anywhere.
    The initial standard deviation is 1.

    Args:
        context_size: dimension of the encoding of propagated objects.
        mean: initial mean, as logits.
    """

    def __init__(self, context_size: int, mean: tuple[float, ...] = (-2.0, -2.0, 0.0, 0.0)) -> None:
        super().__init__()
        size, hidden_size = len(mean), 128
        self.context = nn.Linear(context_size, hidden_size)
        self.recurrence = nn.Linear(size, hidden_size, bias=False)
        self.input = nn.Linear(size, size)
        self.hidden = nn.Linear(hidden_size, size)
        self.readout = nn.Linear(size, 2 * size)
        self.initial_state = nn.Parameter(torch.zeros(size))
        self.initial_where = nn.Parameter(torch.zeros(size))
        with torch.no_grad():
            self.readout.weight.zero_()
            self.readout.bias.copy_(torch.tensor([*mean, *[math.log(math.expm1(1 - MIN_SCALE))] * size]))

    def forward(self, context: Tensor, where: Tensor, state: Tensor) -> tuple[dist.Distribution, Tensor]:
        """The distribution of the next ``where``.

        Args:
            context: the output of the layer ``context``, shape ``[*, hidden]``; the same for all slots.
            where: ``where`` of the slot before, shape ``[*, 4]``.
            state: the recurrent state, shape ``[*, 4]``.

        Returns:
            The distribution and the new state.
        """
        state = torch.tanh(self.input(where) + self.hidden(F.elu(context + self.recurrence(state))))
        loc, scale = self.readout(state).chunk(2, -1)
        return self.distribution(loc, positive_scale(scale)), state

    def distribution(self, loc: Tensor, scale: Tensor) -> dist.Distribution:
        """The distribution of ``where`` given the outputs of the recurrence."""
        return dist.Normal(loc, scale).to_event(1)


class SizedWhere(AutoregressiveWhere):
    """The same prior for objects of known size: the scale logits are fixed, only the shift is learned.

    A uniform object, such as a ball, is reconstructed equally well in a box that is too large. It then moves inside the
    box, and the motion of the box cannot be predicted. Digits need small boxes, since a glimpse has few pixels.

    Args:
        context_size: dimension of the encoding of propagated objects.
        box: initial mean, as logits; see :attr:`~pyro_sqair.scene.objects.SceneConfig.box`.
        std: standard deviation of the scale logits.
    """

    size: Tensor

    def __init__(self, context_size: int, box: tuple[float, ...], std: float) -> None:
        super().__init__(context_size, box)
        self.std = std
        self.register_buffer("size", torch.tensor(box[:2]), persistent=False)

    def distribution(self, loc: Tensor, scale: Tensor) -> dist.Distribution:
        """The distribution of ``where`` with fixed scale logits."""
        size = self.size.expand(*loc.shape[:-1], -1)
        return super().distribution(join(size, loc[..., 2:]), join(torch.full_like(size, self.std), scale[..., 2:]))


class DiscoveryPrior(nn.Module):
    """Draws the objects that enter a frame: their number, then ``where`` and ``what`` of each (Eq. 7).

    Args:
        scene: sizes shared with the guide. With an object size, the prior of ``where`` is :class:`SizedWhere`,
            otherwise :class:`AutoregressiveWhere`. The prior of ``what`` is a standard Gaussian.
        encoder: summarises the propagated objects (Eq. 6); the guide may share it.
        count: the count prior; the default is :class:`CategoricalCount`.
    """

    def __init__(self, scene: SceneConfig, encoder: SetEncoder | NoContext, count: nn.Module | None = None) -> None:
        super().__init__()
        context_size = encoder.output_size + 1
        if scene.box is None:
            where = AutoregressiveWhere(context_size)
        else:
            where = SizedWhere(context_size, scene.box, scene.object_size_std)
        self.encoder = encoder
        self.count = CategoricalCount(scene.num_slots) if count is None else count
        self.where = where
        self.what_dim = scene.what_dim
        self.num_slots = scene.num_slots

    def resize(self, num_slots: int) -> None:
        """Changes the number of slots; see :meth:`CategoricalCount.resize`."""
        if isinstance(self.count, CategoricalCount):
            self.count.resize(num_slots)

    def forward(self, propagated: Objects, slots: Slots, first: bool) -> None:
        """Draws ``pres``, ``where`` and ``what`` in every slot.

        Args:
            propagated: the objects propagated to this frame.
            slots: the slots of this phase.
            first: whether this is the first frame.

        Raises:
            ValueError: if the count prior is for another number of slots.
        """
        num_slots = propagated.pres.shape[-1]
        counts = self.count(propagated, first)
        if counts.shape[-1] != num_slots + 1:
            raise ValueError(
                f"expected a count prior over 0 ... {num_slots}, the number of slots, got one over "
                f"0 ... {counts.shape[-1] - 1}"
            )
        logits = presence_logits(counts, num_slots - propagated.num_present).unbind(-1)
        fraction = propagated.num_present.unsqueeze(-1) / self.num_slots
        context = self.where.context(join(self.encoder(propagated), fraction))
        where: Tensor = self.where.initial_where
        state: Tensor = self.where.initial_state
        zeros = propagated.what.new_zeros(self.what_dim)
        for i in slots:
            pyro.sample("pres", dist.Bernoulli(logits=logits[i]))
            distribution, state = self.where(context, where, state)
            where = pyro.sample("where", distribution)
            pyro.sample("what", dist.Normal(zeros, 1.0).to_event(1))
