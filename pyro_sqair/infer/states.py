# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The states of programs: any pytree of tensors. Finds their tensors and reindexes the particles in them.

A state is a tensor, None, a number or a string, or tuples (named or not), lists, dicts and dataclasses of states.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import KeyPath, keystr, tree_map_with_path

Ranks = dict[str, int]  # path of a tensor in a state -> its number of dimensions without the particle dimension

_CONSTANTS = (type(None), bool, int, float, complex, str, bytes, torch.Size, torch.dtype, torch.device)


def map_tensors(function: Callable[[str, Tensor], Tensor], state: Any, path: str = "state") -> Any:
    """A copy of a state in which every tensor is replaced.

    Args:
        function: maps the path of a tensor, such as `state.objects.where`, and the tensor to the new one.
        state: see the module's docstring.
        path: name of the state.

    Raises:
        ValueError: if the state contains an object of another type; the message names its path.
    """

    def replace(keys: KeyPath, leaf: Any) -> Any:
        name = path + keystr(keys)
        if isinstance(leaf, Tensor):
            return function(name, leaf)
        if isinstance(leaf, _CONSTANTS):
            return leaf
        if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            fields = [field.name for field in dataclasses.fields(leaf)]
            return dataclasses.replace(
                leaf, **{field: map_tensors(function, getattr(leaf, field), f"{name}.{field}") for field in fields}
            )
        raise ValueError(
            f"expected a state of tensors in tuples, lists, dicts and dataclasses, got a "
            f"{type(leaf).__name__} at {name}"
        )

    return tree_map_with_path(replace, state)


def ranks(state: Any) -> Ranks:
    """The number of dimensions of every tensor of a state without particle dimensions."""
    found: Ranks = {}

    def note(path: str, tensor: Tensor) -> Tensor:
        found[path] = tensor.dim()
        return tensor

    map_tensors(note, state)
    return found


def spread(state: Any, num_particles: int, batch: int, known: Ranks) -> Any:
    """A view of a state in which every tensor has shape [K, B, ...]; tensors without dimensions are unchanged.

    A tensor listed in `known` is shared by the particles, of shape [B, ...], if it has the listed number of dimensions,
    and has shape [K, B, ...] if it has one more. This holds even if K = B. Other tensors are taken to have a particle
    dimension if their shape begins with [K, B], and to be shared if it begins with [B].

    Args:
        state: a state of K particles.
        num_particles: K.
        batch: B.
        known: the number of dimensions of each tensor in the initial state.

    Raises:
        ValueError: if a tensor has another shape; the message names it.
    """

    def each(path: str, tensor: Tensor) -> Tensor:
        if tensor.dim() == 0:
            return tensor
        shape = tuple(tensor.shape)
        if path in known:
            own = tensor.dim() == known[path] + 1
            fits = own or tensor.dim() == known[path]
        else:
            own = shape[:2] == (num_particles, batch)
            fits = own or shape[0] == batch
        lead, rest = (shape[:2], shape[2:]) if own else ((1, shape[0]), shape[1:])
        if not fits or lead[0] not in (1, num_particles) or lead[-1] not in (1, batch):
            raise ValueError(
                f"expected {path} of shape [{num_particles}, {batch}, ...] (particles, sequences) or [{batch}, ...]"
                + (f" with {known[path] - 1} more dimensions, as at first" if path in known else "")
                + f", got {list(shape)}"
            )
        return (tensor if own else tensor.unsqueeze(0)).expand(num_particles, batch, *rest)

    return map_tensors(each, state)


def take(state: Any, index: Tensor) -> Any:
    """Reindexes the particles of every datum in all tensors.

    Args:
        state: from `spread`: tensors of shape [K, B, ...], or without dimensions.
        index: the particle to copy to each place, int64 [M, B] or [B].

    Returns:
        The state with tensors of shape [M, B, ...] or [B, ...].
    """
    columns = torch.arange(index.shape[-1], device=index.device)
    return map_tensors(lambda _, tensor: tensor[index, columns] if tensor.dim() else tensor, state)
