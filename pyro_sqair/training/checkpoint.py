# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Checkpoints: tensors and plain types in one file, written whole, checked before anything is touched."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyro_sqair.data.atomic import atomic_path

FORMAT = 1
_KEYS = frozenset({"format", "identity", "config", "step", "weights", "average"})
# A file that is no archive, or a damaged one; one that PyTorch did not write; one that holds more than plain types.
_UNREADABLE = (
    zipfile.BadZipFile,
    RuntimeError,
    pickle.UnpicklingError,
    UnicodeDecodeError,
    EOFError,
    KeyError,
    struct.error,
    zlib.error,
    IsADirectoryError,
)


def save_checkpoint(path: Path, payload: Mapping[str, Any]) -> None:
    """Writes a checkpoint; until the new one is safe on disk, `path` holds the old one.

    Args:
        path: the file to write.
        payload: tensors and plain types only, with the keys `format`, `identity`, `config`, `step`, `weights`
            and `average` at least.

    Raises:
        ValueError: if a key is missing.
    """
    if missing := _KEYS - payload.keys():
        raise ValueError(f"expected a checkpoint with {sorted(_KEYS)}, got one without {sorted(missing)}")
    with atomic_path(path) as temporary:
        torch.save(dict(payload), temporary)


def load_checkpoint(path: Path, expected_model: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU, running no code that the file may hold.

    Args:
        path: a file that `save_checkpoint` wrote.
        expected_model: the identity that the checkpoint must have, if any.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no checkpoint, is damaged, or is one of another model.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # PyTorch writes checksums, and does not read them.
            if (damaged := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"bad checksum of {damaged}")
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise ValueError(f"expected a checkpoint, got a file that cannot be read as one: {path}") from error
    if not isinstance(payload, dict) or not payload.keys() >= _KEYS:
        raise ValueError(f"expected a checkpoint with {sorted(_KEYS)}, got something else in {path}")
    if payload["format"] != FORMAT:
        raise ValueError(f"expected checkpoint format {FORMAT}, got {payload['format']!r} in {path}")
    if expected_model is not None:
        check_same("model", expected_model, payload["identity"], path)
    return payload


def load_weights(
    path: Path,
    model: nn.Module,
    guide: nn.Module,
    *,
    expected_model: Mapping[str, Any] | None = None,
    averaged: bool = True,
) -> dict[str, Any]:
    """Puts the weights of a checkpoint into a model and a guide, all of them or none.

    Args:
        path: a file that a `Trainer` wrote.
        model: the model that was trained, or one built alike.
        guide: its guide.
        expected_model: the identity that the checkpoint must have, if any.
        averaged: use the moving average of the weights where the run kept one.

    Returns:
        the checkpoint.

    Raises:
        ValueError: if the file is damaged or of another model; it says which weights differ.
    """
    payload = load_checkpoint(path, expected_model)
    pair = nn.ModuleDict({"model": model, "guide": guide})
    # An estimator with parameters of its own has stored them beside those of the pair.
    weights = {k: v for k, v in payload["weights"].items() if k.startswith(("model.", "guide."))}
    check_weights(pair, weights, path)
    pair.load_state_dict(weights)
    if averaged and payload["average"] is not None:
        with torch.no_grad():
            for name, parameter in pair.named_parameters():
                if name in payload["average"]:
                    parameter.copy_(payload["average"][name])
    return payload


def check_same(what: str, expected: Mapping[str, Any], got: Mapping[str, Any], path: Path) -> None:
    """Compares two settings as JSON.

    Raises:
        ValueError: names the entries that differ, nested ones as `prior.units`, with both values.
    """
    ours, theirs = (_flat(json.loads(json.dumps(dict(settings)))) for settings in (expected, got))
    lines = [
        f"{name}: expected {ours.get(name, 'nothing')!r}, got {theirs.get(name, 'nothing')!r}"
        for name in sorted(ours.keys() | theirs.keys())
        if name not in ours or name not in theirs or ours[name] != theirs[name]
    ]
    if lines:
        remedy = "for a new run, remove that folder or name another"
        raise ValueError(_listing(f"expected a checkpoint of this {what}, got another in {path}; {remedy}", lines))


def check_weights(module: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Compares names, shapes and types with a module's own.

    Raises:
        ValueError: names the weights that differ.
    """
    ours = {name: _describe(tensor) for name, tensor in module.state_dict().items()}
    theirs = {name: _describe(tensor) for name, tensor in weights.items()}
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
