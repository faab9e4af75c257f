# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Relations between objects, gamma_t = Gamma(z_{t-1}) (Stanić & Schmidhuber 2019, Section 2).

A relational module computes for every object the effect of the others on it: gamma_k = [z_k; e_k]. Without effects
gamma is z, and R-SQAIR is SQAIR.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_sqair.nn.networks import MLP, join
from pyro_sqair.scene.objects import Objects


class Relations(Protocol):
    """A relational module; it is equivariant to the order of objects and accepts any number of them.

    Attributes:
        size: E, the dimension of an effect.
        state_size: S, the dimension of the state kept for each object; 0 for none. A new object's state is zero.
    """

    size: int
    state_size: int

    def __call__(self, objects: Objects, state: Tensor) -> tuple[Tensor, Tensor]:
        """The effects of present objects on each other.

        Args:
            objects: z_{t-1}, shape ``[*, N]``.
            state: shape ``[*, N, S]``.

        Returns:
            Effects, shape ``[*, N, E]``, undefined for absent objects; and the new state.
        """
        ...


class NoRelations(nn.Module):
    """gamma_t = z_{t-1}: objects without effects on each other, as in SQAIR."""

    size = 0
    state_size = 0

    def forward(self, objects: Objects, state: Tensor) -> tuple[Tensor, Tensor]:
        """Effects of shape ``[*, N, 0]``, and the state as it is."""
        return objects.where[..., :0], state


class InteractionNetwork(nn.Module):
    """Sums the pairwise effects on each object, weighted by attention (Eq. 5; van Steenkiste et al. 2018).

    Args:
        what_dim: the dimension D of ``what``.
        size: units of every layer, and the dimension of an effect.
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
        """The effects, shape ``[*, N, E]``, and the state as it is."""
        nodes = self.embed(_latents(objects))
        num = nodes.shape[-2]
        pairs = join(nodes.unsqueeze(-2).expand(*nodes.shape[:-1], num, -1), nodes.unsqueeze(-3))  # [*, k, i, 2 E]
        edges = self.edge(pairs)
        others = 1 - torch.eye(num, dtype=nodes.dtype, device=nodes.device)
        weight = torch.sigmoid(self.attention(edges)).squeeze(-1) * others * objects.pres.unsqueeze(-2)
        return (weight.unsqueeze(-1) * self.effect(edges)).sum(-2), state


@dataclass(frozen=True)
class InteractionConfig:
    """Arguments of an :class:`InteractionNetwork`."""

    size: int = 5

    def build(self, what_dim: int) -> InteractionNetwork:
        """The module with fresh weights."""
        return InteractionNetwork(what_dim, **asdict(self))


class RelationalMemoryCore(nn.Module):
    """One memory row per object; rows attend to each other and to the objects (Santoro et al. 2018).

    The published core writes one input into a fixed number of rows. Here row k belongs to object k and its gates depend
    on that object only, so rows follow their objects and their number is not fixed.

    Args:
        what_dim: the dimension D of ``what``.
        num_heads: heads of the attention.
        head_size: dimension of each.
    """

    def __init__(self, what_dim: int, num_heads: int = 4, head_size: int = 10) -> None:
        super().__init__()
        if min(num_heads, head_size) < 1:
            raise ValueError(f"expected at least 1 head of at least 1 unit, got {num_heads} of {head_size}")
        size = num_heads * head_size
        self.size = self.state_size = size
        self.num_heads = num_heads
        self.embed = nn.Linear(what_dim + 4 + 1, size)
        self.project = nn.Linear(size, 3 * size)  # queries, keys and values
        self.projected = nn.LayerNorm(3 * size)
        self.attended = nn.LayerNorm(size)
        self.mlp = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size), nn.ReLU())
        self.processed = nn.LayerNorm(size)
        self.input_gates = nn.Linear(size, 2 * size)
        self.memory_gates = nn.Linear(size, 2 * size)

    def forward(self, objects: Objects, state: Tensor) -> tuple[Tensor, Tensor]:
        """The new memory rows, shape ``[*, N, S]``, both as effects and as the new state."""
        x = self.embed(_latents(objects))
        state, x = torch.broadcast_tensors(state, x)
        memory = self.attended(state + self._attend(state, x, objects.pres))
        memory = self.processed(memory + self.mlp(memory))
        write, keep = (self.input_gates(x) + self.memory_gates(state.tanh())).chunk(2, -1)
        # The forget gate has a bias of 1, as published.
        memory = torch.sigmoid(write) * memory.tanh() + torch.sigmoid(keep + 1) * state
        return memory, memory

    def _attend(self, state: Tensor, x: Tensor, pres: Tensor) -> Tensor:
        """Attention of every row to the rows and inputs of present objects, shape ``[*, N, size]``."""
        both = self.projected(self.project(torch.cat([state, x], -2)))  # rows, then inputs: [*, 2 N, 3 size]
        queries, keys, values = both.unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        num = x.shape[-2]
        present = torch.cat([pres, pres], -1) > 0
        # Every object attends to itself, since in an empty scene a row of only -inf would give NaN.
        itself = torch.eye(num, dtype=torch.bool, device=x.device).repeat(1, 2)
        scores = torch.einsum("...khd,...ihd->...hki", queries[..., :num, :, :], keys) / math.sqrt(keys.shape[-1])
        masked = ~(present.unsqueeze(-2) | itself).unsqueeze(-3)
        weights = F.softmax(scores.masked_fill(masked, -math.inf), -1)
        return torch.einsum("...hki,...ihd->...khd", weights, values).flatten(-2)


@dataclass(frozen=True)
class MemoryCoreConfig:
    """Arguments of a :class:`RelationalMemoryCore`."""

    num_heads: int = 4
    head_size: int = 10

    def build(self, what_dim: int) -> RelationalMemoryCore:
        """The module with fresh weights."""
        return RelationalMemoryCore(what_dim, **asdict(self))


def _latents(objects: Objects) -> Tensor:
    """z = (what, where, pres), shape ``[*, N, D + 5]``."""
    return join(objects.what, objects.where, objects.pres.unsqueeze(-1))
