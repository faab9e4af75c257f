# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Comparison of the expected content of a file with its actual content, entry by entry."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

ANOTHER_FOLDER = " (to start a new run, choose another folder)"

_MISSING = object()
_MOST_LINES = 20


def check_same(
    what: str, expected: Mapping[str, Any], got: Mapping[str, Any], path: str | Path, remedy: str = ""
) -> None:
    """Compares two settings as JSON values.

    Raises:
        ValueError: if entries differ; lists them with both values, nested ones as ``prior.units``.
    """
    ours, theirs = (_flat(json.loads(json.dumps(dict(settings), default=repr))) for settings in (expected, got))
    _check_entries(f"expected {what}, got different ones in {path}{remedy}:", ours, theirs, repr)


def check_tensors(what: str, expected: Mapping[str, Any], got: Mapping[str, Any], path: str | Path) -> None:
    """Compares the names, dtypes and shapes of tensors, also of nested ones.

    Raises:
        ValueError: if they differ; lists the tensors, nested ones as ``optimizer.weight.exp_avg``.
    """
    ours, theirs = ({name: _describe(value) for name, value in _flat(tensors).items()} for tensors in (expected, got))
    _check_entries(f"expected {what}, got different ones in {path}:", ours, theirs, str)


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """The names of the tensors with NaN or infinity, separated by commas."""
    return ", ".join(name for name, tensor in tensors.items() if not tensor.isfinite().all())


def _describe(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"{value!r:.50}"
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        nested = isinstance(value, dict) and value
        flat |= _flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat


def _check_entries(
    headline: str, expected: Mapping[str, Any], got: Mapping[str, Any], describe: Callable[[Any], str]
) -> None:
    lines = [headline]
    for name in sorted(expected.keys() | got.keys()):
        pair = expected.get(name, _MISSING), got.get(name, _MISSING)
        if pair[0] != pair[1]:
            ours, theirs = ("nothing" if value is _MISSING else describe(value) for value in pair)
            lines.append(f"{name}: expected {ours}, got {theirs}")
    if (more := len(lines) - 1 - _MOST_LINES) > 0:
        lines[1 + _MOST_LINES :] = [f"and {more} more"]
    if len(lines) > 1:
        raise ValueError("\n  ".join(lines))
