# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The training batch as a function of the step."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_sqair.data.randomness import derive_seed
from pyro_sqair.data.sequences import Source
from pyro_sqair.training.config import TrainingConfig
from pyro_sqair.training.schedule import sequence_length


def draw_batch(source: Source, config: TrainingConfig, step: int) -> Tensor:
    """The frames [T, B, C, H, W] of update number `step`, counted from 0.

    Raises:
        ValueError: if the source gives another number of frames or sequences.
    """
    length = sequence_length(step, config)
    # A new generator in every step, so that a batch is independent of all earlier draws.
    generator = torch.Generator(source.device)
    generator.manual_seed(derive_seed("batch", config.seed, step))
    frames = source.sample(config.batch_size, length, generator).frames
    if frames.shape[:2] != (length, config.batch_size):
        raise ValueError(f"expected frames of shape [{length}, {config.batch_size}, ...], got {list(frames.shape)}")
    return frames
