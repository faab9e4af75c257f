# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Seeds and states of random generators, so that a run can be repeated and resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def derive_seed(*parts: object) -> int:
    """A seed determined by `parts`, such as ("batch", seed, step); unlike `hash()`, the same in every process."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1  # generators take a signed 64-bit integer


@contextmanager
def isolated(device: torch.device) -> Iterator[None]:
    """Restores PyTorch's global generators (the CPU's and `device`'s) at the end of the block."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def capture(device: torch.device) -> dict[str, Tensor]:
    """The state of the global generators, as CPU tensors."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore(state: dict[str, Tensor], device: torch.device) -> None:
    """Restores the global generators. A state captured on a CPU leaves that of a GPU unchanged."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
