# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Learning rate and sequence length as pure functions of the step."""

from __future__ import annotations

import math
from itertools import pairwise

from pyro_sqair.training.config import TrainingConfig


def learning_rate(step: int, config: TrainingConfig) -> float:
    """The learning rate of update number `step`, counted from 0.

    The warm-up is linear: `learning_rate` times (step + 1) / warmup_steps. Then a half cosine falls to
    `final_learning_rate` at the last step. It is a function of the *work* done, because as a function of the step it
    would be close to its end for most of the long sequences at the end of a curriculum. `learning_rate_changes` replace
    the cosine by plateaus.
    """
    rise = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.learning_rate_changes:
        rate = config.learning_rate
        for start, changed in config.learning_rate_changes:
            rate = changed if step >= start else rate
        return rise * rate
    if step < config.warmup_steps:
        return rise * config.learning_rate
    start, stop = work(config.warmup_steps, config), work(config.steps - 1, config)
    progress = min(1.0, (work(step, config) - start) / max(1, stop - start))
    drop = config.learning_rate - config.final_learning_rate
    return config.final_learning_rate + 0.5 * drop * (1 + math.cos(math.pi * progress))


def stage_bounds(config: TrainingConfig) -> list[int]:
    """The first step of each stage of the curriculum, followed by the number of steps.

    The number of steps of stage i is proportional to share_i / length_i. It may be 0 in a very short run.
    """
    weights = [share / length for length, share in config.curriculum]
    total = math.fsum(weights)
    bounds = [round(config.steps * math.fsum(weights[:i]) / total) for i in range(len(weights))]
    return [*bounds, config.steps]


def sequence_length(step: int, config: TrainingConfig) -> int:
    """Number of frames of the sequences of update number `step`, counted from 0."""
    for (length, _), stop in zip(config.curriculum, stage_bounds(config)[1:], strict=True):
        if step < stop:
            return length
    return config.curriculum[-1][0]


def work(step: int, config: TrainingConfig) -> int:
    """Cost of the updates before `step`: the sum of their sequence lengths."""
    return sum(
        length * (min(max(step, start), stop) - start)
        for (length, _), (start, stop) in zip(config.curriculum, pairwise(stage_bounds(config)), strict=True)
    )
