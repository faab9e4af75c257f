# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""What changes as training goes on, as pure functions of the step."""

from __future__ import annotations

import math
from itertools import pairwise

from pyro_sqair.training.config import TrainingConfig


def learning_rate(step: int, config: TrainingConfig) -> float:
    """The rate of update number `step`, counted from 0.

    Rises linearly, as (step + 1) / warmup_steps of `learning_rate`; then a half cosine in the *work* done
    reaches `final_learning_rate` at the last step, so that the few, long steps at the end of a curriculum do not
    all fall where the rate is next to nothing. With `learning_rate_changes`, plateaus take the cosine's place.
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
    """First step of each stage of the curriculum, and `steps` at the end: one number more than stages.

    Stage i gets steps in proportion to share_i / length_i. A stage may get none when the run is very short.
    """
    weights = [share / length for length, share in config.curriculum]
    total = math.fsum(weights)
    bounds = [round(config.steps * math.fsum(weights[:i]) / total) for i in range(len(weights))]
    return [*bounds, config.steps]


def sequence_length(step: int, config: TrainingConfig) -> int:
    """Frames in the sequences of update number `step`, counted from 0."""
    for (length, _), stop in zip(config.curriculum, stage_bounds(config)[1:], strict=True):
        if step < stop:
            return length
    return config.curriculum[-1][0]


def work(step: int, config: TrainingConfig) -> int:
    """Cost of the updates before `step`: their lengths, summed."""
    return sum(
        length * (min(max(step, start), stop) - start)
        for (length, _), (start, stop) in zip(config.curriculum, pairwise(stage_bounds(config)), strict=True)
    )
