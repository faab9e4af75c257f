# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Weights of a model and its guide in one safetensors file, together with the identity of the pair."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from pyro_sqair.data.atomic import atomic_path
from pyro_sqair.training.comparison import check_same, check_weights

FORMAT = 1


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
    header = {"format": FORMAT, "step": step, "model": dict(identity), "checksum": _checksum(tensors)}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(tensors, {name: json.dumps(value) for name, value in header.items()}))


@torch.no_grad()
def load_weights(path: Path, model: nn.Module, guide: nn.Module, identity: Mapping[str, Any]) -> int:
    """Copies stored weights into a pair: all of them or, after an error, none.

    Args:
        path: a file of :func:`save_weights`.
        model: a model built like the one that was saved.
        guide: its guide.
        identity: must equal the identity that was saved.

    Returns:
        The step at which the weights were saved.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, of another version or of another model; lists what differs.
    """
    if not path.is_file():
        raise FileNotFoundError(f"expected weights in {path}, found no such file")
    try:
        with safe_open(path, framework="pt") as file:
            header = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
            stored = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"expected weights saved by pyro_sqair, got a damaged or foreign file ({error}): {path}"
        ) from error
    if missing := {"format", "step", "model", "checksum"} - header.keys():
        raise ValueError(
            f"expected weights saved by pyro_sqair, got a file without {sorted(missing)} in its header: {path}"
        )
    if header["format"] != FORMAT:
        raise ValueError(f"expected weights of format {FORMAT}, got {header['format']} in {path}")
    check_same("weights of this model", identity, header["model"], path)
    weights = _weights(model, guide)
    check_weights(weights, stored, path)
    if _checksum(stored) != header["checksum"]:
        raise ValueError(f"expected weights with the stored checksum, got damaged weights in {path}")
    for name, weight in weights.items():
        weight.copy_(stored[name])
    return int(header["step"])


def _weights(model: nn.Module, guide: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; shared ones once, under their name in the model."""
    named = nn.ModuleDict({"model": model, "guide": guide}).state_dict(keep_vars=True)
    first: dict[int, str] = {}
    for name, tensor in named.items():
        first.setdefault(id(tensor), name)
    return {name: named[name] for name in first.values()}


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
