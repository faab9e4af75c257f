# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Weights of a model and its guide in one safetensors file, together with the identity of the pair."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pyro_sqair.data.atomic import atomic_path
from pyro_sqair.training.comparison import check_same, check_tensors

FORMAT = 2


def save_weights(path: Path, model: nn.Module, guide: nn.Module, identity: Mapping[str, Any], step: int) -> None:
    """Writes the weights of a pair; until the new file is safe on disk, `path` holds the old one.

    Tensors that model and guide share are stored once. The header holds the identity, the step and a checksum.

    Args:
        path: the file to write.
        model: a model.
        guide: its guide.
        identity: the settings that determine the pair, as JSON values; see :func:`load_weights`.
        step: the number of updates so far.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _weights(model, guide).items()}
    header = {"format": FORMAT, "step": step, "model": dict(identity), "checksum": _checksum(tensors, step)}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(tensors, {name: json.dumps(value) for name, value in header.items()}))


class Header(NamedTuple):
    """What a file says of its weights.

    Attributes:
        step: the number of updates after which they were saved.
        identity: of model and guide.
        checksum: of the tensors and the step.
    """

    step: int
    identity: dict[str, Any]
    checksum: str


def read_header(path: str | Path) -> Header:
    """Reads the header of a file of :func:`save_weights`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, foreign or of another version.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"expected weights in {path}, found no such file")
    try:
        with safe_open(path, framework="pt") as file:
            entries = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(f"expected weights of pyro_sqair, got a damaged or foreign file ({error}): {path}") from error
    kinds = {"format": int, "step": int, "model": dict, "checksum": str}
    if wrong := [name for name, kind in kinds.items() if type(entries.get(name)) is not kind]:
        raise ValueError(f"expected weights of pyro_sqair, got a header without valid {', '.join(wrong)} in {path}")
    if entries["format"] != FORMAT:
        raise ValueError(f"expected weights of format {FORMAT}, got {entries['format']} in {path}")
    return Header(entries["step"], entries["model"], entries["checksum"])


@torch.no_grad()
def load_weights(path: str | Path, model: nn.Module, guide: nn.Module, identity: Mapping[str, Any]) -> None:
    """Copies stored weights into a pair: all of them or, after an error, none.

    Args:
        path: a file of :func:`save_weights`.
        model: a model built like the one that was saved.
        guide: its guide.
        identity: must equal the identity that was saved.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, of another version or of another model; lists what differs.
    """
    header = read_header(path)
    check_same("the settings of this run", identity, header.identity, path)
    weights, stored = _weights(model, guide), load_file(path)
    check_tensors("the weights of this model", weights, stored, path)
    if _checksum(stored, header.step) != header.checksum:
        raise ValueError(f"expected weights with the stored checksum, got damaged weights in {path}")
    for name, weight in weights.items():
        weight.copy_(stored[name])


def _weights(model: nn.Module, guide: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; shared ones once, under their name in the model."""
    named = nn.ModuleDict({"model": model, "guide": guide}).state_dict(keep_vars=True)
    first: dict[int, str] = {}
    for name, tensor in named.items():
        first.setdefault(id(tensor), name)
    return {name: named[name] for name in first.values()}


def _checksum(tensors: Mapping[str, Tensor], step: int) -> str:
    digest = hashlib.sha256(f"{step} ".encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
