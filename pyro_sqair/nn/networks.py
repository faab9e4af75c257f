# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The networks of the programs: perceptrons and recurrent cells that take any leading batch shape."""

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
    """Concatenates along the last dimension, broadcasting the batch shapes first.

    What does not depend on a sample has shape ``[B, .]``; what does has ``[K, B, .]``.
    """
    batch = batch_shape(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*batch, part.shape[-1]) for part in parts], -1)


class MLP(nn.Sequential):
    """A perceptron with ELU units (paper, D.2).

    Args:
        input_size: the dimension of the input.
        hidden_sizes: the sizes of the hidden layers, each followed by an ELU.
        output_size: the size of the linear output; None if the last hidden layer is the output.
        output_bias: what the bias of the output starts from; the default is PyTorch's initialisation.
    """

    def __init__(
        self,
        input_size: int,
        hidden_sizes: Sequence[int],
        output_size: int | None = None,
        output_bias: float | None = None,
    ) -> None:
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
    """The plain recurrent cell h' = tanh(W [context, x] + U h + b) (paper, D.2), with a learned initial state.

    Part of its input is often the same for many slots, or known for all slots at once. That part is the context:
    multiply it with its weights once, by :meth:`context`, and pass the result to every call.

    Args:
        context_sizes: dimensions of the inputs that make up the context.
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
        """The context's share of the pre-activation; each part at the batch shape it has, shape ``[*, hidden]``."""
        total: Tensor = self.input.bias
        start = 0
        for part, size in zip(parts, self.context_sizes, strict=True):
            total = total + F.linear(part, self.input.weight[:, start : start + size])
            start += size
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
        batch = batch_shape(x.shape[:-1], hidden.shape[:-1])
        x = x.expand(*batch, x.shape[-1]).reshape(-1, x.shape[-1])
        hidden = hidden.expand(*batch, hidden.shape[-1]).reshape(-1, hidden.shape[-1])
        return self.cell(x, hidden).reshape(*batch, -1)


class SetEncoder(nn.Module):
    """Summarises the present objects regardless of their order (paper, Eq. 6; Zaheer et al. 2017).

    Args:
        what_dim: dimension D of ``what``.
        hidden_size: size of both layers and of the summary.
    """

    def __init__(self, what_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.output_size = hidden_size
        self.mlp = MLP(what_dim + 4, [hidden_size, hidden_size])

    def forward(self, objects: Objects) -> Tensor:
        """The sum over present objects, shape ``[*, hidden]``."""
        objects = trim_slots(objects)
        features = self.mlp(torch.cat([objects.what, objects.where], -1))
        return (features * objects.pres.unsqueeze(-1)).sum(-2)


class NoContext(nn.Module):
    """Says nothing about objects, for programs that have none from before: stands where a set encoder would."""

    output_size = 0

    def forward(self, objects: Objects) -> Tensor:
        """Shape ``[*, 0]``."""
        return objects.pres[..., :0]
