# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""A run of the programs that changes nothing, to find out what is wrong with them."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor, nn

from pyro_sqair.data.randomness import isolated


def rehearse(objective: nn.Module, frames: Tensor, device: torch.device, validate: bool) -> None:
    """Runs the programs once, with Pyro's validation, which is too slow for every step, and restores all state.

    This is also the first call of the estimator, which runs the programs more often: it counts plates and checks
    particles. In the first step after resuming, this would draw numbers that an uninterrupted run does not draw.

    Args:
        objective: the estimator of a model and its guide.
        frames: shape [T, B, C, H, W].
        device: of the programs.
        validate: whether to validate.
    """
    buffers = [(buffer, buffer.clone()) for buffer in objective.buffers()]
    with isolated(device), torch.no_grad(), pyro.validation_enabled(validate):
        objective(frames)
        for buffer, before in buffers:
            buffer.copy_(before)


def invalid_parameters(objective: nn.Module, frames: Tensor, device: torch.device) -> str | None:
    """Which distribution has invalid parameters, such as NaN, for these frames; None if none has.

    Raises:
        ValueError: if validation finds another fault, as of the frames.
    """
    try:
        rehearse(objective, frames, device, validate=True)
    except ValueError as error:
        fault = str(error).splitlines()[0]
        if "constraint" not in fault or not frames.isfinite().all():  # PyTorch's word, in errors about parameters
            raise
        return fault
    return None
