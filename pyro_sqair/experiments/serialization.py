# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Conversion of configurations, which are nested frozen dataclasses, to JSON values and back."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """A configuration as plain JSON values; a dataclass becomes an object with its name under ``"type"``.

    Raises:
        TypeError: if a value has another type.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"expected a configuration of dataclasses, tuples, paths, numbers and strings, got {value!r}")


def from_json(kind: type[T], value: Any, name: str) -> T:
    """The inverse of :func:`to_json`.

    Args:
        kind: the dataclass.
        value: JSON values.
        name: of the value in errors.

    Raises:
        ValueError: if an entry is invalid or missing; names it.
    """
    return _read(kind, value, name)


def _read(kind: Any, value: Any, name: str) -> Any:
    """Reads a value of an annotated type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _read_union(arguments, value, name)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{name}: expected one of {list(arguments)}, got {value!r}")
        return value
    if origin is tuple:
        return _read_tuple(arguments, value, name)
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, value, name)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind in (bool, int, str) and type(value) is kind:
        return value
    if kind is types.NoneType and value is None:
        return None
    raise ValueError(f"{name}: expected {getattr(kind, '__name__', kind)}, got {value!r}")


def _read_union(kinds: tuple[Any, ...], value: Any, name: str) -> Any:
    if value is None and types.NoneType in kinds:
        return None
    kinds = tuple(kind for kind in kinds if kind is not types.NoneType)
    if len(kinds) == 1:
        return _read(kinds[0], value, name)
    named = {kind.__name__: kind for kind in kinds}  # dataclasses
    found = value.get("type") if isinstance(value, dict) else value
    if not isinstance(found, str) or found not in named:
        raise ValueError(f"{name}: expected one of {sorted(named)}, got {found!r}")
    return _read(named[found], value, name)


def _read_tuple(kinds: tuple[Any, ...], value: Any, name: str) -> tuple[Any, ...]:
    repeated = len(kinds) == 2 and kinds[1] is Ellipsis
    if not isinstance(value, list) or not (repeated or len(value) == len(kinds)):
        expected = "a list" if repeated else f"a list of {len(kinds)}"
        raise ValueError(f"{name}: expected {expected}, got {value!r}")
    each = [kinds[0]] * len(value) if repeated else kinds
    return tuple(_read(kind, item, f"{name}[{i}]") for i, (kind, item) in enumerate(zip(each, value, strict=True)))


def _read_dataclass(kind: Any, value: Any, name: str) -> Any:
    if not isinstance(value, dict) or value.get("type") != kind.__name__:
        found = value.get("type") if isinstance(value, dict) else value
        raise ValueError(f"{name}: expected type {kind.__name__}, got {found!r}")
    hints = typing.get_type_hints(kind)
    fields = {field.name for field in dataclasses.fields(kind)}
    if fields != value.keys() - {"type"}:
        raise ValueError(f"{name}: expected the entries {sorted(fields)}, got {sorted(value.keys() - {'type'})}")
    read = {entry: _read(hints[entry], value[entry], f"{name}.{entry}") for entry in sorted(fields)}
    try:
        return kind(**read)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
