# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""What a file is expected to hold against what it holds, entry by entry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor


def check_same(what: str, expected: Mapping[str, Any], got: Mapping[str, Any], path: Path) -> None:
    """Compares two settings as JSON.

    Raises:
        ValueError: names the entries that differ, nested ones as ``prior.units``, with both values.
    """
    ours, theirs = (_flat(json.loads(json.dumps(dict(settings)))) for settings in (expected, got))
    lines = [
        f"{name}: expected {ours.get(name, 'nothing')!r}, got {theirs.get(name, 'nothing')!r}"
        for name in sorted(ours.keys() | theirs.keys())
        if name not in ours or name not in theirs or ours[name] != theirs[name]
    ]
    if lines:
        raise ValueError(_listing(f"expected {what}, got others in {path}", lines))


def check_weights(expected: Mapping[str, Tensor], got: Mapping[str, Tensor], path: Path) -> None:
    """Compares names, shapes and types of tensors.

    Raises:
        ValueError: names the weights that differ.
    """
    ours, theirs = ({name: _describe(t) for name, t in tensors.items()} for tensors in (expected, got))
    lines = [
        f"{name}: expected {ours.get(name, 'nothing')}, got {theirs.get(name, 'nothing')}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
    if lines:
        raise ValueError(_listing(f"expected the weights of this model, got others in {path}", lines))


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name: value}
    return flat


def _listing(headline: str, lines: list[str], most: int = 20) -> str:
    more = [f"and {len(lines) - most} more"] if len(lines) > most else []
    return "\n  ".join([headline + ":", *lines[:most], *more])
