# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Choice of the device and of the number of threads."""

from __future__ import annotations

import torch

_MOST_THREADS = 1024  # OpenMP aborts the process if the system cannot start as many as it is told to


def choose_device(name: str) -> torch.device:
    """Returns the device of that name.

    Args:
        name: "auto" for a GPU if there is one, otherwise the CPU; or "cpu", "cuda", "cuda:1", ...

    Raises:
        ValueError: if there is no such device.
    """
    found = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda" if found else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"expected a device 'auto', 'cpu', 'cuda' or 'cuda:N', got {name!r}") from error
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and (device.index or 0) >= found):
        raise ValueError(f"expected a device that is available, 'cpu' or one of {found} GPUs, got {name!r}")
    return device


def set_threads(number: int | None) -> None:
    """Sets the number of CPU threads of PyTorch.

    Args:
        number: from 1 to 1024; None for no change.

    Raises:
        ValueError: if it is another number.
    """
    if number is None:
        return
    if not 1 <= number <= _MOST_THREADS:
        raise ValueError(f"expected threads from 1 to {_MOST_THREADS}, got {number}")
    torch.set_num_threads(number)
