# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Checkpoints: tensors and plain types in one file, written atomically and checked on loading."""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_sqair.data.randomness import isolated, restore
from pyro_sqair.training.comparison import ANOTHER_FOLDER, check_same, check_tensors, not_finite
from pyro_sqair.training.config import TrainingConfig

FORMAT = 3
# Settings that may change when a run is resumed: they do not affect what is learned.
_FREE = dict.fromkeys(("validate_every", "checkpoint_every"))
_TYPES: dict[str, type | tuple[type, ...]] = {
    "format": int,
    "identity": dict,
    "config": dict,
    "step": int,
    "weights": dict,
    "optimizer": dict,
    "unused": list,  # the names of the weights without a state of the optimiser
    "estimator": dict,
    "average": (dict, type(None)),
    "random": dict,
    "sums": Tensor,
    "skipped": int,
    "metrics": dict,
    "seconds": float,
}
# Raised for files that are not archives, damaged, not written by PyTorch, or with other objects than plain types.
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


def write_checkpoint(path: Path, payload: Mapping[str, Any]) -> None:
    """Writes a checkpoint.

    Args:
        path: the file to write.
        payload: tensors and plain types only; its keys are those of `_TYPES` without `format`.

    Raises:
        OSError: if writing fails.
    """
    buffer = io.BytesIO()  # PyTorch itself reports a full disk as a RuntimeError without a reason
    torch.save({"format": FORMAT, **payload}, buffer)
    path.write_bytes(buffer.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU, without running code from the file.

    Args:
        path: a file of :func:`write_checkpoint`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a checkpoint, is damaged, is of another version, or has an entry of another type
            or out of range; names it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # PyTorch writes checksums but does not verify them.
            if (damaged := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"bad checksum of {damaged}")
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise ValueError(f"expected a checkpoint, got a file that cannot be read as one: {path}") from error
    if not isinstance(payload, dict) or "format" not in payload:
        raise ValueError(f"expected a checkpoint, got something else in {path}")
    if type(payload["format"]) is not int or payload["format"] != FORMAT:
        raise ValueError(f"expected checkpoint format {FORMAT}, got {payload['format']!r} in {path}")
    if missing := _TYPES.keys() - payload.keys():
        raise ValueError(f"expected a checkpoint with {sorted(_TYPES)}, got one without {sorted(missing)}: {path}")
    _check_entries(payload, path)
    return payload


def _check_entries(payload: Mapping[str, Any], path: Path) -> None:
    for name, kind in _TYPES.items():
        value = payload[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"expected {name} of type {kind}, got {value!r:.50} in {path}")
    if not 0 <= payload["skipped"] <= payload["step"]:
        raise ValueError(f"expected skipped in 0 to step, got {payload['skipped']} and {payload['step']} in {path}")
    if not (math.isfinite(payload["seconds"]) and payload["seconds"] >= 0):
        raise ValueError(f"expected seconds finite and not negative, got {payload['seconds']} in {path}")
    for name, value in payload["metrics"].items():
        if not isinstance(name, str) or not isinstance(value, float):
            raise ValueError(f"expected metrics to be numbers by name, got {name!r}: {value!r:.50} in {path}")


def check_settings(payload: Mapping[str, Any], identity: Mapping[str, Any], config: TrainingConfig, path: Path) -> None:
    """Checks that a checkpoint is one of this run.

    Args:
        payload: the result of :func:`load_checkpoint`.
        identity: of the run.
        config: of its training.
        path: of the file, for the errors.

    Raises:
        ValueError: if it is of another model or training, or of a step outside it; lists what differs.
    """
    check_same("the settings of this run", identity, payload["identity"], path, ANOTHER_FOLDER)
    settings = asdict(config) | _FREE, payload["config"] | _FREE
    check_same("the settings of this training", *settings, path, ANOTHER_FOLDER)
    if not 0 <= payload["step"] <= config.steps:
        raise ValueError(f"expected a step in 0 to {config.steps}, got {payload['step']} in {path}")


def check_state(
    payload: Mapping[str, Any], tensors: Mapping[str, Any], trained: Iterable[str], device: torch.device, path: Path
) -> None:
    """Checks that the tensors of a checkpoint are those of a run.

    Args:
        payload: the result of :func:`load_checkpoint`.
        tensors: entries of the run with the same names, dtypes and shapes, on any device.
        trained: the names of the weights that are trained, which must be finite.
        device: of the training.
        path: of the file, for the errors.

    Raises:
        ValueError: if they are not; lists what differs.
    """
    check_tensors("the tensors of this run", tensors, {name: payload[name] for name in tensors}, path)
    weights = {f"weights.{name}": payload["weights"][name] for name in trained}
    if bad := not_finite(weights | {f"average.{name}": value for name, value in (payload["average"] or {}).items()}):
        raise ValueError(f"expected finite weights, got NaN or infinity in {bad} in {path}")
    try:
        with isolated(device):
            restore(payload["random"], device)
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"expected random to hold states of generators, got others in {path}: {error}") from error


def load_schedule(estimator: object, state: Mapping[str, Any], path: Path) -> None:
    """Resumes the schedule of an estimator, if it has one.

    Raises:
        ValueError: if the state is that of another schedule.
    """
    load = getattr(estimator, "load_state_dict", None)
    if load is None and state:
        raise ValueError(f"expected a checkpoint of an estimator without a schedule, got one with {state} in {path}")
    try:
        if load is not None:
            load(state)
    except ValueError as error:
        raise ValueError(f"{error} in {path}") from error
