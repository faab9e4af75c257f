# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Relations between objects, gamma_t = Gamma(z_{t-1}) (Stanić & Schmidhuber 2019, Section 2).

A relational module adds to every object what the others do to it: gamma_k = [z_k; e_k]. With no effects gamma is z, and
R-SQAIR is SQAIR.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_sqair.nn.networks import MLP, join
from pyro_sqair.scene.objects import Objects


class Relations(Protocol):
    """A relational module; equivariant to the order of objects, and indifferent to their number.

    Attributes:
        size: E, the size of an effect.
        state_size: S, of what it remembers of each object; 0 for nothing. A new object starts with zeros.
    """

    size: int
    state_size: int

    def __call__(self, objects: Objects, state: Tensor) -> tuple[Tensor, Tensor]:
        """What present objects do to each other.

        Args:
            objects: z_{t-1}, shape ``[*, N]``.
            state: shape ``[*, N, S]``.

        Returns:
            Effects, shape ``[*, N, E]``; they mean nothing where the object is absent. And the new state.
        """
        ...


class NoRelations(nn.Module):
    """gamma_t = z_{t-1}: objects that know nothing of each other, as in SQAIR."""

    size = 0
    state_size = 0

    def forward(self, objects: Objects, state: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Relations`."""
        return objects.where[..., :0], state


class InteractionNetwork(nn.Module):
    """Sums what each other object does to an object, weighted by attention (Eq. 5; van Steenkiste et al. 2018).

    Args:
        what_dim: the dimension D of ``what``.
        size: units of every layer, and the size of an effect.
    """

    state_size = 0

    def __init__(self, what_dim: int, size: int = 5) -> None:
        super().__init__()
        self.size = size
        self.embed = MLP(what_dim + 4 + 1, [size], size)  # f, a node
        self.edge = MLP(2 * size, [size], size)  # g, node to edge
        self.attention = MLP(size, [size], 1)  # g_att
        self.effect = MLP(size, [size], size)  # g_eff

    def forward(self, objects: Objects, state: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Relations`."""
        nodes = self.embed(_latents(objects))
        num = nodes.shape[-2]
        pairs = join(nodes.unsqueeze(-2).expand(*nodes.shape[:-1], num, -1), nodes.unsqueeze(-3))  # [*, k, i, 2 E]
        edges = self.edge(pairs)
        others = 1 - torch.eye(num, dtype=nodes.dtype, device=nodes.device)
        weight = torch.sigmoid(self.attention(edges)).squeeze(-1) * others * objects.pres.unsqueeze(-2)
        return (weight.unsqueeze(-1) * self.effect(edges)).sum(-2), state


@dataclass(frozen=True)
class InteractionConfig:
    """Sizes of an :class:`InteractionNetwork`.

    Attributes:
        size: units of every layer, and the size of an effect.
    """

    size: int = 5

    def build(self, what_dim: int) -> InteractionNetwork:
        """The module with fresh weights."""
        return InteractionNetwork(what_dim, self.size)


class RelationalMemoryCore(nn.Module):
    """A row of memory for each object; rows attend to each other and to the objects (Santoro et al. 2018).

    The published core writes one input into a fixed number of rows. Here row k belongs to object k and is gated by
    that object alone, so the rows follow their objects, and there may be any number of them.

    Args:
        what_dim: the dimension D of ``what``.
        num_heads: heads of the attention.
        head_size: dimensions of each.
        forget_bias: added to the logit of keeping the memory.
    """

    def __init__(self, what_dim: int, num_heads: int = 4, head_size: int = 10, forget_bias: float = 1.0) -> None:
        super().__init__()
        size = num_heads * head_size
        self.size = self.state_size = size
        self.num_heads = num_heads
        self.forget_bias = forget_bias
        self.embed = nn.Linear(what_dim + 4 + 1, size)
        self.project = nn.Linear(size, 3 * size)  # queries, keys and values
        self.projected = nn.LayerNorm(3 * size)
        self.attended = nn.LayerNorm(size)
        self.mlp = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size), nn.ReLU())
        self.processed = nn.LayerNorm(size)
        self.input_gates = nn.Linear(size, 2 * size)
        self.memory_gates = nn.Linear(size, 2 * size)

    def forward(self, objects: Objects, state: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Relations`."""
        x = self.embed(_latents(objects))
        state, x = torch.broadcast_tensors(state, x)
        memory = self.attended(state + self._attend(state, x, objects.pres))
        memory = self.processed(memory + self.mlp(memory))
        write, keep = (self.input_gates(x) + self.memory_gates(state.tanh())).chunk(2, -1)
        memory = torch.sigmoid(write) * memory.tanh() + torch.sigmoid(keep + self.forget_bias) * state
        return memory, memory

    def _attend(self, state: Tensor, x: Tensor, pres: Tensor) -> Tensor:
        """Every row looks at the rows and the inputs of present objects, once."""
        both = self.projected(self.project(torch.cat([state, x], -2)))  # rows, then inputs: [*, 2 N, 3 size]
        queries, keys, values = both.unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        num = x.shape[-2]
        seen = torch.cat([pres, pres], -1) > 0
        # An object always sees itself: where nobody is present a row of nothing but -inf would give NaN.
        itself = torch.eye(num, dtype=torch.bool, device=x.device).repeat(1, 2)
        scores = torch.einsum("...khd,...ihd->...hki", queries[..., :num, :, :], keys) / math.sqrt(keys.shape[-1])
        hidden = ~(seen.unsqueeze(-2) | itself).unsqueeze(-3)
        weights = F.softmax(scores.masked_fill(hidden, -math.inf), -1)
        return torch.einsum("...hki,...ihd->...khd", weights, values).flatten(-2)


@dataclass(frozen=True)
class MemoryCoreConfig:
    """Sizes of a :class:`RelationalMemoryCore`.

    Attributes:
        num_heads: heads of the attention.
        head_size: dimensions of each.
    """

    num_heads: int = 4
    head_size: int = 10

    def build(self, what_dim: int) -> RelationalMemoryCore:
        """The module with fresh weights."""
        return RelationalMemoryCore(what_dim, self.num_heads, self.head_size)


def _latents(objects: Objects) -> Tensor:
    """z = (what, where, pres), shape ``[*, N, D + 5]``."""
    return join(objects.what, objects.where, objects.pres.unsqueeze(-1))
