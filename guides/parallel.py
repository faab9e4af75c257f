# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""An inference program whose depth does not grow with the number of objects.

The paper's guide visits objects one after the other: what it drew for one is an input to the networks of the next
(Algorithms 2 and 3). Here attention takes the place of both recurrent networks, and one pass of every network serves all
slots. The sites are the same, one per object. Two conditional independences are the price: given the frame and the
past, q(z_t) factorises over slots, but for who is present; and ``what`` and ``pres`` depend on where an object is expected, the mean
of its ``where``, and not on the draw, which is a fraction of a pixel away once the guide is trained.
"""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_sqair.attention import HIDDEN, Attention, SelfAttentionBlock, hide_absent
from pyro_sqair.distributions import CorrelatedNormal
from pyro_sqair.guides.glimpse import Appearance, GlimpseEncoder, GlimpseMask, mlp_glimpse_encoder
from pyro_sqair.guides.propagation import GatedAppearance, SharedFactor
from pyro_sqair.guides.sqair import SQAIRGuide
from pyro_sqair.networks import GRU, MLP
from pyro_sqair.scene import Objects, SceneConfig, occupied, pad_slots
from pyro_sqair.shapes import batch_shape
from pyro_sqair.slots import Slots
from pyro_sqair.spatial import crop, scale_and_shift

_INDEX_SIZE = 8


class ParallelPropagation(nn.Module):
    """Follows all objects at once: self-attention among them in place of the relation RNN.

    Everything else is that of :class:`~pyro_sqair.guides.PropagationGuide`: proposal glimpse, mask, temporal state,
    gated appearance. Permuting the objects permutes what is inferred for them.

    Args:
        glimpse_encoder: shared with discovery.
        what_dim: the dimension D of ``what``.
        hidden_size: units of every network.
        presence_bias: the logit of an object's staying starts here.
        scale_bias: the softplus of this is where the standard deviations of ``where`` start.
    """

    def __init__(
        self,
        glimpse_encoder: GlimpseEncoder,
        what_dim: int,
        hidden_size: int,
        presence_bias: float = 5.0,
        scale_bias: float = -4.0,
    ) -> None:
        super().__init__()
        self.glimpse_encoder = glimpse_encoder
        self.proposal = MLP(hidden_size, [128], 4)
        self.mask = GlimpseMask(hidden_size, glimpse_encoder.glimpse_size)
        self.embed = nn.Linear(2 * what_dim + 4 + hidden_size, hidden_size)
        self.relation = SelfAttentionBlock(hidden_size)
        self.where = MLP(2 * hidden_size + 4, [hidden_size, hidden_size], 8)
        self.scale_bias = nn.Parameter(torch.tensor(scale_bias))
        self.factor = SharedFactor(4)
        self.temporal = GRU(hidden_size + 4 + 2 * what_dim, hidden_size)
        self.what = GatedAppearance(hidden_size, what_dim)
        self.pres = MLP(2 * hidden_size + what_dim, [hidden_size // 2], 1, output_bias=presence_bias)
        self.register_buffer("initial_memory", torch.zeros(hidden_size), persistent=False)

    def forward(self, frame: Tensor, previous: Objects, memory: Tensor, slots: Slots) -> Tensor:
        """Draws ``where``, ``what`` and ``pres`` in every slot.

        Args:
            frame: x_t, shape ``[B, C, H, W]``.
            previous: z_{t-1}, shape ``[*, N]``.
            memory: h_{t-1}^T, shape ``[*, N, hidden]``.
            slots: the slots of this phase.

        Returns:
            h_t^T, shape ``[*, N, hidden]``.
        """
        previous = occupied(previous)
        memory = memory[..., : previous.pres.shape[-1], :]
        mask = self.mask(memory)
        proposed, _ = look(self.glimpse_encoder, frame, previous.where + 0.1 * self.proposal(memory), mask)
        objects = self.embed(torch.cat([proposed, previous.what, previous.where, memory], -1))
        relation = self.relation(objects, hide_absent(previous.pres))

        change, scale = self.where(torch.cat([relation, previous.where, memory], -1)).chunk(2, -1)
        loc, scale = previous.where + change, F.softplus(scale + self.scale_bias) + 0.01
        seen = look(self.glimpse_encoder, frame, loc, mask)
        memory = self.temporal(torch.cat([relation, loc, *seen], -1), memory)
        what = self.what(memory, previous.what, *seen).base_dist
        logits = self.pres(torch.cat([relation, memory, what.loc], -1)).squeeze(-1)

        factor = self.factor()
        # Taken apart once: the gradient of an indexed slice is a whole tensor of zeros with that slice in it.
        wheres = list(zip(loc.unbind(-2), scale.unbind(-2), strict=True))
        whats = list(zip(what.loc.unbind(-2), what.scale.unbind(-2), strict=True))
        stays = logits.unbind(-1)
        for i in slots:
            pyro.sample("where", CorrelatedNormal(*wheres[i], factor))
            pyro.sample("what", dist.Normal(*whats[i]).to_event(1))
            pyro.sample("pres", dist.Bernoulli(logits=stays[i]))
        return pad_slots(memory, slots.num)


class SearchBlock(nn.Module):
    """Slots that search an image take notice of each other and of the objects already known, then look, then think.

    Args:
        size: of a query and of a window.
        num_heads: of each attention; a divisor of ``size``.
    """

    def __init__(self, size: int, num_heads: int = 4) -> None:
        super().__init__()
        self.before_others = nn.LayerNorm(size)
        self.others = Attention(size, num_heads)
        self.before_windows = nn.LayerNorm(size)
        self.windows = Attention(size, num_heads)
        self.avoid = nn.Parameter(torch.zeros(num_heads, 1, 1))
        self.before_mlp = nn.LayerNorm(size)
        self.mlp = MLP(size, [size], size)

    def forward(self, queries: Tensor, known: Tensor, hidden: Tensor, windows: Tensor, explained: Tensor) -> Tensor:
        """One round.

        Args:
            queries: shape ``[*, N, S]``.
            known: the objects already known, shape ``[*, M, S]``.
            hidden: a bias that hides some of N queries and M objects, shape ``[*, 1, N, N + M]``.
            windows: shape ``[B, P, S]``.
            explained: how much of a window the known objects explain, shape ``[*, 1, 1, P]``.

        Returns:
            Shape ``[*, N, S]``.
        """
        normed = self.before_others(queries)
        others = self.others.project(torch.cat([normed, known], -2))
        queries = queries + self.others(normed, others, hidden)
        seen = self.windows.project(windows)  # at [B], whatever the number of particles
        queries = queries + self.windows(self.before_windows(queries), seen, -F.softplus(self.avoid) * explained)
        return queries + self.mlp(self.before_mlp(queries))


class ParallelDiscovery(nn.Module):
    """Finds all new objects at once: a query for each slot attends over windows of the image.

    A slot's query knows the slots before it (slot i opens only if slot i-1 found something) and the propagated objects;
    windows that those explain are hidden from it to a degree that is learned. A slot does not know how many come after
    it, so a trained guide runs with another number of slots.

    Args:
        image_size: (H, W) in pixels.
        glimpse_encoder: shared with propagation; windows have the size of its glimpses.
        what_dim: the dimension D of ``what``.
        hidden_size: units of every network.
        presence_bias: the logit of finding one more object starts here.
        scale_bias: the softplus of this is where the standard deviations of ``where`` start.
    """

    windows: Tensor
    centres: Tensor
    reach: Tensor

    def __init__(
        self,
        image_size: tuple[int, int],
        glimpse_encoder: GlimpseEncoder,
        what_dim: int,
        hidden_size: int,
        presence_bias: float = 1.0,
        scale_bias: float = -3.0,
    ) -> None:
        super().__init__()
        self.glimpse_encoder = glimpse_encoder
        windows = window_grid(image_size, glimpse_encoder.glimpse_size)
        scale, centres = scale_and_shift(windows)
        self.register_buffer("windows", windows, persistent=False)  # [P, 4]
        self.register_buffer("centres", centres, persistent=False)  # [P, 2]
        self.register_buffer("reach", scale[0] / 2, persistent=False)  # [2]
        pixels = glimpse_encoder.channels * math.prod(glimpse_encoder.glimpse_size)
        self.window = MLP(pixels, [hidden_size], hidden_size)
        self.position = MLP(2, [hidden_size], hidden_size)
        self.index = nn.Linear(_INDEX_SIZE, hidden_size)
        self.known = nn.Linear(what_dim + 4, hidden_size)
        self.search = nn.ModuleList(SearchBlock(hidden_size) for _ in range(2))
        self.point = nn.Linear(hidden_size, hidden_size)
        self.avoid = nn.Parameter(torch.zeros(()))
        self.where = MLP(2 * hidden_size, [hidden_size], 8)
        self.scale_bias = nn.Parameter(torch.tensor(scale_bias))
        self.pres = MLP(2 * hidden_size + what_dim, [hidden_size // 2], 1, output_bias=presence_bias)

    def forward(self, frame: Tensor, propagated: Objects, slots: Slots) -> None:
        """Draws ``where``, ``what`` and ``pres`` in every slot.

        Args:
            frame: x_t, shape ``[B, C, H, W]``.
            propagated: z_t^{P_t}.
            slots: the slots of this phase.
        """
        windows = self.encode_windows(frame)
        known = occupied(propagated)
        explained = self.explained(known).unsqueeze(-2)  # [*, 1, P]
        queries = self.queries(windows, known, explained, slots.num)

        # Points at a window; how far from its centre the object is, is learned.
        logits = self.point(queries) @ windows.mT / math.sqrt(queries.shape[-1]) - F.softplus(self.avoid) * explained
        attention = logits.softmax(-1)  # [*, N, P]
        hidden = torch.cat([queries, attention @ windows], -1)
        start = torch.atanh(attention @ self.centres)
        loc, scale = self.where(hidden).chunk(2, -1)
        loc, scale = loc + F.pad(start, (2, 0)), F.softplus(scale + self.scale_bias) + 0.01
        seen = look(self.glimpse_encoder, frame, loc)
        logits = self.pres(torch.cat([hidden, seen.loc], -1)).squeeze(-1)

        wheres = list(zip(loc.unbind(-2), scale.unbind(-2), strict=True))
        whats = list(zip(seen.loc.unbind(-2), seen.scale.unbind(-2), strict=True))
        finds = logits.unbind(-1)
        for i in slots:
            pyro.sample("where", dist.Normal(*wheres[i]).to_event(1))
            pyro.sample("what", dist.Normal(*whats[i]).to_event(1))
            pyro.sample("pres", dist.Bernoulli(logits=finds[i]))

    def encode_windows(self, frame: Tensor) -> Tensor:
        """What is in each window and where that is, ``[B, C, H, W]`` to ``[B, P, hidden]``."""
        grid = self.windows.unsqueeze(1).expand(-1, len(frame), -1)
        pixels = crop(frame, grid, self.glimpse_encoder.glimpse_size).flatten(-3)  # [P, B, C h w]
        return self.window(pixels.movedim(0, -2)) + self.position(self.centres)

    def explained(self, objects: Objects) -> Tensor:
        """How much of each window the objects cover, softly; shape ``[*, P]``, near 1 where one has its centre."""
        scale, shift = scale_and_shift(objects.where)
        distance = (self.centres - shift.unsqueeze(-2)) / (scale + self.reach).unsqueeze(-2)  # [*, n, P, 2]
        return ((-2 * distance.square().sum(-1)).exp() * objects.pres.unsqueeze(-1)).sum(-2)

    def queries(self, windows: Tensor, known: Objects, explained: Tensor, num_slots: int) -> Tensor:
        """What the slots have found in the windows, shape ``[*, N, hidden]``."""
        batch = batch_shape(known.pres.shape[:-1], windows.shape[:-2])
        earlier = windows.new_full((num_slots, num_slots), HIDDEN).triu(1).expand(*batch, 1, -1, -1)
        absent = hide_absent(known.pres).expand(*batch, 1, num_slots, -1)
        hidden = torch.cat([earlier, absent], -1)
        objects = self.known(torch.cat([known.what, known.where], -1)).expand(*batch, -1, -1)
        queries = self.index(_index(num_slots, windows)).expand(*batch, -1, -1)
        for search in self.search:
            queries = search(queries, objects, hidden, windows, explained.unsqueeze(-2))
        return queries


def look(encoder: GlimpseEncoder, frame: Tensor, where: Tensor, mask: Tensor | None = None) -> Appearance:
    """Looks at all objects at once: ``where`` of shape ``[*, N, 4]``, masks and results likewise."""
    seen = encoder(frame, where.movedim(-2, 0), None if mask is None else mask.movedim(-2, 0))
    return Appearance(seen.loc.movedim(0, -2), seen.scale.movedim(0, -2))


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


def _index(num_slots: int, like: Tensor) -> Tensor:
    """The number of each slot as sines and cosines, so that any number of slots has one; ``[N, _INDEX_SIZE]``."""
    slots = torch.arange(num_slots, dtype=like.dtype, device=like.device).unsqueeze(-1)
    angles = slots * 0.5 ** torch.arange(_INDEX_SIZE // 2, dtype=like.dtype, device=like.device)
    return torch.cat([angles.sin(), angles.cos()], -1)


def parallel_guide(scene: SceneConfig, hidden_size: int = 256, glimpse: GlimpseEncoder | None = None) -> SQAIRGuide:
    """A guide that treats all slots at once, for the models that SQAIR's own guide serves.

    Args:
        scene: sizes of images, glimpses and latents.
        hidden_size: units of every network.
        glimpse: encodes glimpses; the default is that of MLP-SQAIR.
    """
    if glimpse is None:
        glimpse = mlp_glimpse_encoder(scene.what_dim, hidden_size, scene.channels, scene.glimpse_size)
    return SQAIRGuide(
        ParallelDiscovery(scene.image_size, glimpse, scene.what_dim, hidden_size),
        ParallelPropagation(glimpse, scene.what_dim, hidden_size),
        scene,
    )
