# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""States of programs, which may be of any make: where their tensors are, and how particles in them are reindexed.

A state is a tensor, None, a number or a string, or tuples (named or not), lists, dicts and dataclasses of states.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, MutableMapping
from typing import Any

import torch
from torch import Tensor

Ranks = dict[str, int]  # the path of a tensor in a state -> its number of dimensions without the particles'

_CONSTANTS = (type(None), bool, int, float, complex, str, bytes, torch.Size, torch.dtype, torch.device)


def map_tensors(function: Callable[[str, Tensor], Tensor], state: Any, path: str = "state") -> Any:
    """The same state with every tensor replaced.

    Args:
        function: maps the path of a tensor, such as `state.objects.where`, and the tensor to the new one.
        state: see the module's docstring.
        path: what to call the state.

    Raises:
        ValueError: if the state holds something whose tensors cannot be found; the message names it.
    """
    if isinstance(state, Tensor):
        return function(path, state)
    if isinstance(state, _CONSTANTS):
        return state
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        parts = zip(state._fields, state, strict=True)
        return type(state)(*(map_tensors(function, part, f"{path}.{name}") for name, part in parts))
    if isinstance(state, (tuple, list)):
        return type(state)(map_tensors(function, part, f"{path}[{i}]") for i, part in enumerate(state))
    if isinstance(state, MutableMapping):
        new = copy.copy(state)
        for key, part in state.items():
            new[key] = map_tensors(function, part, f"{path}[{key!r}]")
        return new
    if dataclasses.is_dataclass(state) and not isinstance(state, type):
        twin: Any = copy.copy(state)
        for field in dataclasses.fields(state):
            part = map_tensors(function, getattr(state, field.name), f"{path}.{field.name}")
            object.__setattr__(twin, field.name, part)  # it may be frozen
        return twin
    raise ValueError(
        f"expected a state of tensors in tuples, lists, dicts and dataclasses, got a {type(state).__name__} at {path}"
    )


def ranks(state: Any) -> Ranks:
    """The number of dimensions of every tensor of a state that has no particles yet."""
    found: Ranks = {}

    def note(path: str, tensor: Tensor) -> Tensor:
        found[path] = tensor.dim()
        return tensor

    map_tensors(note, state)
    return found


def spread(state: Any, num_particles: int, batch: int, known: Ranks) -> Any:
    """A view of a state in which every tensor has shape [K, B, ...], but for those without dimensions.

    A tensor that `known` lists, with shape [B, ...], is shared by the particles if it has as many dimensions as
    listed there, and has one for the particles if it has one more; that is so even if K = B. Of one that is not
    listed, [K, B, ...] is taken to begin with the particles, [B, ...] to be shared.

    Args:
        state: a state of K particles.
        num_particles: K.
        batch: B.
        known: of tensors already there in the initial state, the number of dimensions there.

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
    """Reindexes the particles of every datum, in all tensors alike.

    Args:
        state: from `spread`: tensors of shape [K, B, ...], or without dimensions.
        index: which particle to put where, int64 [M, B] or [B].

    Returns:
        The state with tensors of shape [M, B, ...] or [B, ...].
    """
    columns = torch.arange(index.shape[-1], device=index.device)
    return map_tensors(lambda _, tensor: tensor[index, columns] if tensor.dim() else tensor, state)
