# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Attention over objects and image windows, for any leading batch shape (Vaswani et al. 2017)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyro_sqair.networks import MLP

HIDDEN = -1e9  # finite, so that gradients stay numbers; its exponential is exactly zero beside any other logit


class KeysAndValues(NamedTuple):
    """What a context offers to whoever attends to it, each of shape ``[*, heads, M, size / heads]``."""

    keys: Tensor
    values: Tensor


class Attention(nn.Module):
    """Multi-head attention.

    Args:
        size: S, of what attends, of what is attended to and of the result.
        num_heads: a divisor of S.
    """

    def __init__(self, size: int, num_heads: int = 4) -> None:
        super().__init__()
        if size % num_heads:
            raise ValueError(f"expected a number of heads that divides the size {size}, got {num_heads}")
        self.num_heads = num_heads
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size, bias=False)  # a bias would move all logits of a query alike
        self.value = nn.Linear(size, size)
        self.output = nn.Linear(size, size)

    def project(self, context: Tensor) -> KeysAndValues:
        """Keys and values of a context ``[*, M, S]``: once for all who attend to it, at the batch shape it has."""
        return KeysAndValues(self._split(self.key(context)), self._split(self.value(context)))

    def forward(self, x: Tensor, context: KeysAndValues, bias: Tensor | None = None) -> Tensor:
        """What each of Q queries takes from a context.

        Args:
            x: shape ``[*, Q, S]``.
            context: from :meth:`project`.
            bias: added to the logits, broadcastable to ``[*, heads, Q, M]``; :data:`HIDDEN` hides.

        Returns:
            Shape ``[*, Q, S]``.
        """
        logits = self._split(self.query(x)) @ context.keys.mT / math.sqrt(context.keys.shape[-1])
        if bias is not None:
            logits = logits + bias
        return self.output((logits.softmax(-1) @ context.values).transpose(-3, -2).flatten(-2))

    def _split(self, x: Tensor) -> Tensor:
        """``[*, M, S]`` to ``[*, heads, M, S / heads]``."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(-3, -2)


class SelfAttentionBlock(nn.Module):
    """Elements of a set take notice of each other: attention, then a perceptron, both residual.

    Permuting the elements permutes the result.

    Args:
        size: S, of an element.
        num_heads: a divisor of S.
    """

    def __init__(self, size: int, num_heads: int = 4) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(size)
        self.attention = Attention(size, num_heads)
        self.before_mlp = nn.LayerNorm(size)
        self.mlp = MLP(size, [size], size)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Shape ``[*, M, S]`` to the same; for the bias see :meth:`Attention.forward`."""
        normed = self.before_attention(x)
        x = x + self.attention(normed, self.attention.project(normed), bias)
        return x + self.mlp(self.before_mlp(x))


def hide_absent(pres: Tensor) -> Tensor:
    """A bias that hides absent objects, ``[*, M]`` to ``[*, 1, 1, M]``; if all are, nobody is."""
    return torch.where(pres > 0, 0.0, HIDDEN).to(pres.dtype)[..., None, None, :]
