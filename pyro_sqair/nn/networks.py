# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Perceptrons and recurrent cells for any leading batch shape."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_sqair.scene.objects import Objects, batch_shape, trim_slots

MIN_SCALE = 0.01


def positive_scale(x: Tensor) -> Tensor:
    """The standard deviation softplus(x) + 0.01 of a Gaussian; the lower bound is that of the released code."""
    return F.softplus(x) + MIN_SCALE


def join(*parts: Tensor) -> Tensor:
    """Broadcasts the batch shapes and concatenates along the last dimension.

    Tensors that do not depend on a sample have shape ``[B, .]``, those that do have ``[K, B, .]``.
    """
    batch = batch_shape(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*batch, part.shape[-1]) for part in parts], -1)


def flatten_batch(*parts: Tensor) -> tuple[torch.Size, list[Tensor]]:
    """Broadcasts the batch shapes and flattens them into one dimension, as PyTorch's recurrent cells require.

    Returns:
        The batch shape, and the tensors, each of shape ``[rows, .]``.
    """
    batch = batch_shape(*(part.shape[:-1] for part in parts))
    return batch, [part.expand(*batch, part.shape[-1]).reshape(-1, part.shape[-1]) for part in parts]


class MLP(nn.Sequential):
    """A perceptron with ELU units (paper, D.2).

    Args:
        input_size: the dimension of the input.
        hidden_sizes: the sizes of the hidden layers, each followed by an ELU.
        output_size: the size of the linear output layer; None to return the last hidden layer.
        output_bias: initial bias of the output layer; None for PyTorch's default.

    Raises:
        ValueError: if a layer has no unit.
    """

    def __init__(
        self,
        input_size: int,
        hidden_sizes: Sequence[int],
        output_size: int | None = None,
        output_bias: float | None = None,
    ) -> None:
        if min(*hidden_sizes, output_size or 1, 1) < 1:
            raise ValueError(f"expected layers of at least 1 unit, got {[*hidden_sizes, output_size]}")
        layers: list[nn.Module] = []
        for size in hidden_sizes:
            layers += [nn.Linear(input_size, size), nn.ELU()]
            input_size = size
        if output_size is not None:
            output = nn.Linear(input_size, output_size)
            if output_bias is not None:
                nn.init.constant_(output.bias, output_bias)
            layers.append(output)
        super().__init__(*layers)


class VanillaRNN(nn.Module):
    """The recurrent cell h' = tanh(W [context, x] + U h + b) (paper, D.2), with a learned initial state.

    The context is the part of the input that is the same for several slots or known for all slots at once. Its product
    with the weights is computed once, by :meth:`context`, and passed to every call.

    Args:
        context_sizes: dimensions of the parts of the context.
        input_size: dimension of the input x.
        hidden_size: dimension of the state.
    """

    def __init__(self, context_sizes: Sequence[int], input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.context_sizes = tuple(context_sizes)
        self.input = nn.Linear(sum(context_sizes) + input_size, hidden_size)
        self.hidden = nn.Linear(hidden_size, hidden_size)
        self.initial = nn.Parameter(torch.zeros(hidden_size))

    def context(self, *parts: Tensor) -> Tensor:
        """The contribution of the context to the pre-activation, shape ``[*, hidden]``; batch shapes broadcast."""
        weights = self.input.weight[:, : sum(self.context_sizes)].split(self.context_sizes, -1)
        total: Tensor = self.input.bias
        for part, weight in zip(parts, weights, strict=True):
            total = total + F.linear(part, weight)
        return total

    def forward(self, context: Tensor, x: Tensor, hidden: Tensor) -> Tensor:
        """One step.

        Args:
            context: from :meth:`context`, shape ``[*, hidden]``.
            x: shape ``[*, input]``.
            hidden: shape ``[*, hidden]``.
        """
        start = sum(self.context_sizes)
        return torch.tanh(context + F.linear(x, self.input.weight[:, start:]) + self.hidden(hidden))


class GRU(nn.Module):
    """A gated recurrent unit for any leading batch shape.

    Args:
        input_size: dimension of the input.
        hidden_size: dimension of the state.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.cell = nn.GRUCell(input_size, hidden_size)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """One step: ``x`` of shape ``[*, input]`` and ``hidden`` of shape ``[*, hidden]`` to the new state."""
        batch, rows = flatten_batch(x, hidden)
        return self.cell(*rows).reshape(*batch, -1)


class SetEncoder(nn.Module):
    """Encodes the set of present objects as the sum of their features (paper, Eq. 6; Zaheer et al. 2017).

    Args:
        what_dim: dimension D of ``what``.
        hidden_size: size of both layers and of the output.
    """

    def __init__(self, what_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.output_size = hidden_size
        self.mlp = MLP(what_dim + 4, [hidden_size, hidden_size])

    def forward(self, objects: Objects) -> Tensor:
        """Shape ``[*, hidden]``."""
        objects = trim_slots(objects)
        features = self.mlp(torch.cat([objects.what, objects.where], -1))
        return (features * objects.pres.unsqueeze(-1)).sum(-2)


class NoContext(nn.Module):
    """Takes the place of a :class:`SetEncoder` in programs that do not propagate; it has no features."""

    output_size = 0

    def forward(self, objects: Objects) -> Tensor:
        """Shape ``[*, 0]``."""
        return objects.pres[..., :0]
