# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Where randomness comes from, so that a run can be repeated, resumed, and validated without a trace."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def derive_seed(*parts: object) -> int:
    """A seed that depends on all of `parts`, such as ("batch", seed, step), and on nothing else.

    Neighbouring seeds and steps give unrelated results; `hash()` would not be the same in the next process.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1  # a signed 64-bit integer is what generators take


@contextmanager
def isolated(device: torch.device) -> Iterator[None]:
    """A context whose draws leave PyTorch's global generators (the CPU's and `device`'s) as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def capture(device: torch.device) -> dict[str, Tensor]:
    """The state of the global generators, as CPU tensors."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore(state: dict[str, Tensor], device: torch.device) -> None:
    """Puts the global generators back; a run that moved between CPU and GPU has none for the new one."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
