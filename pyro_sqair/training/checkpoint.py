# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Checkpoints: tensors and plain types in one file, written atomically and checked on loading."""

from __future__ import annotations

import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pyro_sqair.data.atomic import atomic_path

FORMAT = 2
_KEYS = frozenset({"format", "identity", "config", "step", "weights", "optimizer", "estimator", "average", "random"})
_KEYS |= {"sums", "logged", "skipped", "metrics", "seconds"}
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


def save_checkpoint(path: Path, payload: Mapping[str, Any]) -> None:
    """Writes a checkpoint; until the new one is safe on disk, `path` holds the old one.

    Args:
        path: the file to write.
        payload: tensors and plain types only; its keys are `_KEYS` without `format`.
    """
    with atomic_path(path) as temporary:
        torch.save({"format": FORMAT, **payload}, temporary)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU, without running code from the file.

    Args:
        path: a file of :func:`save_checkpoint`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a checkpoint, is damaged, or is of another version.
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
    if payload["format"] != FORMAT:
        raise ValueError(f"expected checkpoint format {FORMAT}, got {payload['format']!r} in {path}")
    if missing := _KEYS - payload.keys():
        raise ValueError(f"expected a checkpoint with {sorted(_KEYS)}, got one without {sorted(missing)}: {path}")
    return payload
