# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Discovery of all new objects at once: a query for each slot, in place of the RNN of Algorithm 3."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_sqair.attention import HIDDEN, Attention, hide_absent
from pyro_sqair.guides.discovery import start_from
from pyro_sqair.guides.glimpse import GlimpseEncoder
from pyro_sqair.guides.parallel_propagation import SlotLaws, draw, look
from pyro_sqair.networks import MLP
from pyro_sqair.scene import Objects, occupied
from pyro_sqair.shapes import batch_shape
from pyro_sqair.slots import Slots
from pyro_sqair.spatial import crop, scale_and_shift

_INDEX_SIZE = 8


class SearchBlock(nn.Module):
    """Slots that search an image look, take notice of each other and of the objects already known, then think.

    Args:
        size: of a query and of a window.
        num_heads: of each attention; a divisor of ``size``.
    """

    def __init__(self, size: int, num_heads: int = 4) -> None:
        super().__init__()
        self.before_windows = nn.LayerNorm(size)
        self.windows = Attention(size, num_heads)
        self.avoid = nn.Parameter(torch.zeros(num_heads, 1, 1))
        self.before_others = nn.LayerNorm(size)
        self.others = Attention(size, num_heads)
        self.before_mlp = nn.LayerNorm(size)
        self.mlp = MLP(size, [size], size)

    def forward(self, queries: Tensor, known: Tensor, hidden: Tensor, windows: Tensor, explained: Tensor) -> Tensor:
        """What the slots make of what they see.

        Args:
            queries: shape ``[*, N, S]``.
            known: the objects already known, shape ``[*, M, S]``.
            hidden: a bias that hides some of N queries and M objects, shape ``[*, 1, N, N + M]``.
            windows: shape ``[B, P, S]``.
            explained: how much of a window the known objects explain, shape ``[*, 1, 1, P]``.

        Returns:
            Shape ``[*, N, S]``.
        """
        seen = self.windows.project(windows)  # at [B], whatever the number of particles
        queries = queries + self.windows(self.before_windows(queries), seen, -F.softplus(self.avoid) * explained)
        normed = self.before_others(queries)
        others = self.others.project(torch.cat([normed, known], -2))
        queries = queries + self.others(normed, others, hidden)
        return queries + self.mlp(self.before_mlp(queries))


class ParallelDiscoveryGuide(nn.Module):
    """Finds all new objects at once: each slot has a query that attends over windows of the image, and points at one.

    A slot knows the slots before it, since slot i opens only if slot i-1 found something, and the propagated objects.
    It looks past windows that these explain, by as much as is learned. It does not know how many slots come after it,
    so a trained guide runs with another number of them.

    Args:
        image_size: (H, W) in pixels.
        glimpse_encoder: shared with propagation; a window spans as many pixels of the image as one of its glimpses has.
        what_dim: the dimension D of ``what``.
        hidden_size: units of every network.
        presence_bias: the logit of finding an object starts here.
        more_bias: is at first added to that of finding another. With as high a logit as the first, a second slot soon
            shares one object with the first, each at half its brightness, and it takes long to unlearn that.
        scale_bias: the softplus of this is where the standard deviations of ``where`` start; lower than in
            :class:`~pyro_sqair.guides.DiscoveryGuide`, since ``what`` does not know the draw.
        search: about where the means of ``where`` start, as logits, beside the place of the window that a slot points
            at; None for boxes of half the image's sides.
        rounds: how often slots choose windows anew, knowing what earlier slots chose. After r rounds the first r + 1
            slots are settled; others rely on what is learned of the order in which objects are found.
    """

    windows: Tensor
    centres: Tensor
    window_size: tuple[int, int]

    def __init__(
        self,
        image_size: tuple[int, int],
        glimpse_encoder: GlimpseEncoder,
        what_dim: int,
        hidden_size: int,
        presence_bias: float = 2.0,
        more_bias: float = -3.0,
        scale_bias: float = -4.0,
        search: tuple[float, ...] | None = None,
        rounds: int = 3,
    ) -> None:
        super().__init__()
        self.glimpse_encoder = glimpse_encoder
        self.rounds = rounds
        windows = window_grid(image_size, glimpse_encoder.glimpse_size)
        self.register_buffer("windows", windows, persistent=False)  # [P, 4]
        self.register_buffer("centres", scale_and_shift(windows)[1], persistent=False)  # [P, 2]
        # Half a glimpse's resolution is enough to see where to look, for a quarter of the pixels.
        height, width = glimpse_encoder.glimpse_size
        self.window_size = (height + 1) // 2, (width + 1) // 2
        pixels = glimpse_encoder.channels * math.prod(self.window_size)
        self.window = MLP(pixels, [hidden_size], hidden_size)
        self.position = MLP(2, [hidden_size], hidden_size)
        self.index = nn.Linear(_INDEX_SIZE, hidden_size)
        self.known = nn.Linear(what_dim + 4, hidden_size)
        self.search = SearchBlock(hidden_size)
        self.point = nn.Linear(hidden_size, hidden_size)
        self.avoid_known, self.avoid_earlier = (nn.Parameter(torch.tensor(3.0)) for _ in range(2))
        self.read = nn.Linear(2 * hidden_size, hidden_size)
        self.where = MLP(hidden_size, [hidden_size, hidden_size], 8)
        if search is not None:
            start_from(self.where, search)
        self.scale_bias = nn.Parameter(torch.tensor(scale_bias))
        self.pres = MLP(hidden_size + what_dim, [hidden_size // 2], 1, output_bias=presence_bias)
        self.more_bias = nn.Parameter(torch.tensor(more_bias))

    def forward(self, frame: Tensor, propagated: Objects, slots: Slots) -> None:
        """Draws ``where``, ``what`` and ``pres`` in every slot.

        Args:
            frame: x_t, shape ``[B, C, H, W]``.
            propagated: z_t^{P_t}.
            slots: the slots of this phase.
        """
        num_slots = slots.num
        if frame.device.type == "cpu":  # elsewhere looking would cost more than it saves
            num_slots -= int(propagated.num_present.min())  # others are closed for all
        draw(self.laws(frame, propagated, num_slots) if num_slots else [], slots)

    def laws(self, frame: Tensor, propagated: Objects, num_slots: int) -> list[SlotLaws]:
        """What is inferred of every slot before any is drawn; see :meth:`forward`."""
        windows, known = self.encode_windows(frame), occupied(propagated)
        explained = self.explained(known).unsqueeze(-2)  # [*, 1, P]
        queries = self.queries(windows, known, explained, num_slots)
        choice = self.choose(queries, windows, explained)
        # Bounded: presence would else be unlearned before there is anything worth finding.
        hidden = torch.tanh(self.read(torch.cat([queries, choice @ windows], -1)))

        loc, scale = self.where(hidden).chunk(2, -1)
        loc = loc + F.pad(torch.atanh(choice @ self.centres), (2, 0))
        scale = F.softplus(scale + self.scale_bias) + 0.01
        seen = look(self.glimpse_encoder, frame, loc)
        logits = self.pres(torch.cat([hidden, seen.loc], -1)).squeeze(-1)
        logits = logits + F.pad(self.more_bias.expand(num_slots - 1), (1, 0))
        # Taken apart once: the gradient of an indexed slice is a whole tensor of zeros with that slice in it.
        parts = (part.unbind(-2) for part in (loc, scale, *seen))
        return [
            SlotLaws(dist.Normal(w, s).to_event(1), dist.Normal(a, d).to_event(1), dist.Bernoulli(logits=p))
            for w, s, a, d, p in zip(*parts, logits.unbind(-1), strict=True)
        ]

    def encode_windows(self, frame: Tensor) -> Tensor:
        """What is in each window and where that is, ``[B, C, H, W]`` to ``[B, P, hidden]``."""
        grid = self.windows.unsqueeze(1).expand(-1, len(frame), -1)
        pixels = crop(frame, grid, self.window_size).flatten(-3)  # [P, B, C h w]
        return self.window(pixels.movedim(0, -2)) + self.position(self.centres)

    def explained(self, objects: Objects) -> Tensor:
        """How much of each window the objects explain, shape ``[*, P]``."""
        return (self.covered(*scale_and_shift(objects.where)) * objects.pres.unsqueeze(-1)).sum(-2)

    def covered(self, scale: Tensor, centre: Tensor) -> Tensor:
        """How much of each window a box covers, softly: 1 where the centres agree.

        Args:
            scale: of the boxes, shape ``[*, 2]``.
            centre: of the boxes, shape ``[*, 2]``.

        Returns:
            Shape ``[*, P]``.
        """
        reach = scale + scale_and_shift(self.windows[0])[0] / 2
        distance = (self.centres - centre.unsqueeze(-2)) / reach.unsqueeze(-2)
        return (-2 * distance.square().sum(-1)).exp()

    def queries(self, windows: Tensor, known: Objects, explained: Tensor, num_slots: int) -> Tensor:
        """What the slots make of what they see, shape ``[*, N, hidden]``."""
        batch = batch_shape(known.pres.shape[:-1], windows.shape[:-2])
        later = windows.new_full((num_slots, num_slots), HIDDEN).triu(1).expand(*batch, 1, -1, -1)
        absent = hide_absent(known.pres).expand(*batch, 1, num_slots, -1)
        objects = self.known(torch.cat([known.what, known.where], -1)).expand(*batch, -1, -1)
        queries = self.index(slot_index(num_slots, windows)).expand(*batch, -1, -1)
        return self.search(queries, objects, torch.cat([later, absent], -1), windows, explained.unsqueeze(-2))

    def choose(self, queries: Tensor, windows: Tensor, explained: Tensor) -> Tensor:
        """A distribution over windows for each slot, away from those explained or chosen before; ``[*, N, P]``."""
        logits = self.point(queries) @ windows.mT / math.sqrt(queries.shape[-1])
        logits = logits - F.softplus(self.avoid_known) * explained
        earlier = logits.new_ones(queries.shape[-2], queries.shape[-2]).tril(-1)
        scale, _ = scale_and_shift(self.windows[0])
        choice = logits.softmax(-1)
        for _ in range(self.rounds):
            chosen = earlier @ self.covered(scale, choice @ self.centres)
            choice = (logits - F.softplus(self.avoid_earlier) * chosen).softmax(-1)
        return choice


def window_grid(image_size: tuple[int, int], glimpse_size: tuple[int, int]) -> Tensor:
    """Windows of the size of a glimpse, about half a glimpse apart, that cover an image.

    Args:
        image_size: (H, W) in pixels.
        glimpse_size: (h, w) in pixels.

    Returns:
        ``where`` logits, shape ``[P, 4]``.
    """
    rows, columns = (math.ceil(2 * size / glimpse) for size, glimpse in zip(image_size, glimpse_size, strict=True))
    height, width = (glimpse / size for size, glimpse in zip(image_size, glimpse_size, strict=True))
    ys, xs = ((2 * torch.arange(n) + 1) / n - 1 for n in (rows, columns))
    y, x = (axis.flatten() for axis in torch.meshgrid(ys, xs, indexing="ij"))
    scale = torch.tensor([width, height]).logit(eps=1e-6).expand(len(x), -1)
    return torch.cat([scale, torch.stack([x, y], -1).atanh()], -1)


def slot_index(num_slots: int, like: Tensor) -> Tensor:
    """The number of each slot as sines and cosines, so that any number of slots has one; ``[N, _INDEX_SIZE]``."""
    slots = torch.arange(num_slots, dtype=like.dtype, device=like.device).unsqueeze(-1)
    angles = slots * 0.5 ** torch.arange(_INDEX_SIZE // 2, dtype=like.dtype, device=like.device)
    return torch.cat([angles.sin(), angles.cos()], -1)
