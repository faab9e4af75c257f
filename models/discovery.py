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

IMPOSSIBLE = -1e30  # finite, so that differences and gradients stay numbers, and far below any log-probability


class CategoricalCount(nn.Module):
    """The learned count prior p(D_t | P_t) = Categorical(0 ... N - P_t) (Eq. 8).

    After the first frame it starts out expecting that nothing new appears, as in the released code.

    Args:
        num_slots: the largest number N of objects.
    """

    def __init__(self, num_slots: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_slots + 1))
        later = torch.zeros(num_slots + 1)
        later[0] = 10.0
        self.later = nn.Parameter(later)
        self.mlp = MLP(1, [10], num_slots + 1)
        self.num_slots = num_slots

    def resize(self, num_slots: int) -> None:
        """Makes room for another number N of objects; counts never seen are as likely as the largest that was.

        Args:
            num_slots: the new N. What was learned about numbers of propagated objects goes on to mean the same.
        """
        index = torch.arange(num_slots + 1, device=self.bias.device).clamp(max=len(self.bias) - 1)
        readout = self.mlp[-1]
        assert isinstance(readout, nn.Linear)
        resized = nn.Linear(readout.in_features, num_slots + 1, device=self.bias.device, dtype=self.bias.dtype)
        with torch.no_grad():
            self.bias = nn.Parameter(self.bias[index])
            self.later = nn.Parameter(self.later[index])
            resized.weight.copy_(readout.weight[index])
            resized.bias.copy_(readout.bias[index])
        self.mlp[-1] = resized

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
    """A count prior that costs a fixed number of nats an object; nothing is learned.

    Args:
        first: nats per object in the first frame.
        later: nats per object discovered in later frames.
    """

    def __init__(self, first: float, later: float) -> None:
        super().__init__()
        self.costs = (first, later)

    def forward(self, propagated: Objects, first: bool) -> Tensor:
        """Logits of D = 0 ... N before truncation, shape ``[N + 1]``."""
        pres = propagated.pres
        return -self.costs[0 if first else 1] * torch.arange(pres.shape[-1] + 1, dtype=pres.dtype, device=pres.device)


class GeometricCount(FixedCount):
    """A geometric count prior, p(D) proportional to success^D, cut off where there is no more room.

    Args:
        success: how much less likely each further object is, above 0 and at most 1.
    """

    def __init__(self, success: float) -> None:
        if not 0 < success <= 1:
            raise ValueError(f"expected success above 0 and at most 1, got {success}")
        super().__init__(-math.log(success), -math.log(success))


def presence_logits(count_logits: Tensor, room: Tensor) -> Tensor:
    """Writes a truncated categorical count slot by slot (contract C6).

    Args:
        count_logits: unnormalised log-probabilities of D = 0 ... N, shape ``[*, N + 1]`` or ``[N + 1]``.
        room: the largest admissible count, shape ``[*]``; larger counts have probability zero.

    Returns:
        Logits of P(D > i | D >= i) for i = 0 ... N - 1, shape ``[*, N]``.
    """
    num = count_logits.shape[-1]
    fits = torch.arange(num, device=room.device) <= room.unsqueeze(-1)
    logits = torch.where(fits, count_logits, IMPOSSIBLE)
    # log P(D > i) up to a constant, by summing from the largest count down
    more = logits.flip(-1).logcumsumexp(-1).flip(-1)[..., 1:]
    return torch.where(fits[..., 1:], more - logits[..., :-1], IMPOSSIBLE)


class AutoregressiveWhere(nn.Module):
    """A small recurrent prior over the ``where`` of objects discovered together.

    It is conditioned on what was propagated, and starts at mean (-2, -2, 0, 0) with standard deviation 1: boxes of an
    eighth of the image, anywhere.

    Args:
        context_size: dimension of the summary of propagated objects.
        hidden_size: size of the layer that reads it.
        mean: where the prior starts, as logits.
    """

    def __init__(
        self, context_size: int, hidden_size: int = 128, mean: tuple[float, ...] = (-2.0, -2.0, 0.0, 0.0)
    ) -> None:
        super().__init__()
        size = len(mean)
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
        """The law of the next ``where``.

        Args:
            context: what was propagated, from the layer ``context``, shape ``[*, hidden]``; the same for all slots.
            where: the ``where`` drawn before, shape ``[*, 4]``.
            state: the recurrent state, shape ``[*, 4]``.

        Returns:
            The law and the new state.
        """
        state = torch.tanh(self.input(where) + self.hidden(F.elu(context + self.recurrence(state))))
        loc, scale = self.readout(state).chunk(2, -1)
        return self.law(loc, positive_scale(scale)), state

    def law(self, loc: Tensor, scale: Tensor) -> dist.Distribution:
        """The law of ``where`` that the recurrence asks for, by its means and standard deviations."""
        return dist.Normal(loc, scale).to_event(1)


class SizedWhere(AutoregressiveWhere):
    """The same for objects whose size is known when they are discovered: only their places are learned.

    A plain thing is drawn as well in a box far too large as in one that fits, and then it moves within its box: nobody
    can foresee where such a box goes. Digits need small boxes, since a glimpse has few pixels; balls do not.

    Args:
        context_size: dimension of the summary of propagated objects.
        box: the usual one, as logits; see :attr:`~pyro_sqair.scene.objects.SceneConfig.box`.
        std: of the logits of its size.
    """

    size: Tensor

    def __init__(self, context_size: int, box: tuple[float, ...], std: float) -> None:
        super().__init__(context_size, mean=box)
        self.std = std
        self.register_buffer("size", torch.tensor(box[:2]), persistent=False)

    def law(self, loc: Tensor, scale: Tensor) -> dist.Distribution:
        """The law of ``where``, of whose size the recurrence has no say."""
        size = self.size.expand(*loc.shape[:-1], -1)
        return super().law(join(size, loc[..., 2:]), join(torch.full_like(size, self.std), scale[..., 2:]))


def where_prior(scene: SceneConfig, context_size: int) -> AutoregressiveWhere:
    """The prior of boxes for a scene: with their size, if it is known."""
    if scene.box is None:
        return AutoregressiveWhere(context_size)
    return SizedWhere(context_size, scene.box, scene.object_size_std)


class DiscoveryPrior(nn.Module):
    """Draws the objects that enter a frame: how many, then ``where`` and ``what`` of each (Eq. 7).

    Args:
        num_slots: the largest number N of objects.
        what_dim: the dimension D of ``what``, whose prior is a standard Gaussian.
        encoder: summarises the propagated objects (Eq. 6); the guide may share it.
        count: the count prior; the default is :class:`CategoricalCount`.
        where: the prior of boxes; the default is :class:`AutoregressiveWhere`.
    """

    def __init__(
        self,
        num_slots: int,
        what_dim: int,
        encoder: SetEncoder | NoContext,
        count: nn.Module | None = None,
        where: AutoregressiveWhere | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.count = CategoricalCount(num_slots) if count is None else count
        self.where = AutoregressiveWhere(encoder.output_size + 1) if where is None else where
        self.what_dim = what_dim
        self.num_slots = num_slots

    def resize(self, num_slots: int) -> None:
        """Makes room for another number of objects; see :meth:`CategoricalCount.resize`."""
        if isinstance(self.count, CategoricalCount):
            self.count.resize(num_slots)

    def forward(self, propagated: Objects, slots: Slots, first: bool) -> None:
        """Draws ``pres``, ``where`` and ``what`` in every slot.

        Args:
            propagated: the objects propagated to this frame.
            slots: the slots of this phase.
            first: whether this is the first frame.
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
        standard = dist.Normal(propagated.what.new_zeros(self.what_dim), propagated.what.new_ones(self.what_dim))
        for i in slots:
            pyro.sample("pres", dist.Bernoulli(logits=logits[i]))
            law, state = self.where(context, where, state)
            where = pyro.sample("where", law)
            pyro.sample("what", standard.to_event(1))
