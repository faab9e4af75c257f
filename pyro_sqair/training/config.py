# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The configuration of training, which is saved with the run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

# Shares such as 1 / 3 do not add up to one exactly.
_SHARE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class TrainingConfig:
    """How to train; the defaults train the moving digits on a CPU within an hour.

    Attributes:
        steps: number of updates of the whole run.
        batch_size: sequences per step, B.
        num_particles: particles of the estimator, K.
        optimizer: "adam", or "rmsprop" as published.
        learning_rate: rate after the warm-up.
        final_learning_rate: rate of the last step, to which a half cosine falls.
        learning_rate_changes: (step, rate) pairs that replace the cosine: the rate from that step on.
        warmup_steps: steps over which the rate rises linearly from near zero.
        momentum: of RMSProp; unused by Adam.
        clip_norm: maximum global norm of the gradient of the loss (the batch mean of −L / T); None for no clipping.
        curriculum: (length, share) pairs in the order of training: sequences of `length` frames for `share` of the
            *compute*. The cost of a step is its number of frames, so the number of steps of a stage is proportional to
            share / length.
        ema_decay: of the moving average of the weights, which is used for validation; 0 for no average.
        log_every: steps per log record; the device is read at these steps only.
        validate_every: steps between validations; the last step is always validated.
        checkpoint_every: steps between checkpoints; the last step is always saved.
        seed: of the batches, of the draws of model and guide, of validation, and of the initial weights of
            :meth:`~pyro_sqair.experiments.Experiment.programs`.
    """

    steps: int = 5600
    batch_size: int = 32
    num_particles: int = 5
    optimizer: Literal["adam", "rmsprop"] = "adam"
    learning_rate: float = 1e-3
    final_learning_rate: float = 2e-5
    learning_rate_changes: tuple[tuple[int, float], ...] = ()
    warmup_steps: int = 200
    momentum: float = 0.9
    clip_norm: float | None = 300.0
    curriculum: tuple[tuple[int, float], ...] = ((3, 0.40), (4, 0.15), (6, 0.20), (10, 0.25))
    ema_decay: float = 0.0
    log_every: int = 20
    validate_every: int = 500
    checkpoint_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "num_particles", "log_every", "validate_every", "checkpoint_every"):
            _expect(_is_int(getattr(self, name), 1), f"{name} to be a positive integer", getattr(self, name))
        for name in ("warmup_steps", "seed"):
            _expect(_is_int(getattr(self, name), 0), f"{name} to be an integer, 0 or more", getattr(self, name))
        _expect(self.steps <= 2**53, "steps of at most 2**53, up to which the schedules are exact", self.steps)
        _expect(self.seed < 2**63, "seed to be below 2**63", self.seed)
        for name in ("learning_rate", "final_learning_rate"):
            # Either optimiser changes most weights by about the rate in a step.
            _expect(0 < getattr(self, name) <= 1, f"{name} to be positive and at most 1", getattr(self, name))
        _expect(self.optimizer in ("adam", "rmsprop"), "optimizer 'adam' or 'rmsprop'", self.optimizer)
        _expect(0 <= self.momentum < 1, "momentum in [0, 1)", self.momentum)
        _expect(0 <= self.ema_decay < 1, "ema_decay in [0, 1)", self.ema_decay)
        clipped = self.clip_norm is None or _is_positive(self.clip_norm)
        _expect(clipped, "clip_norm positive or None", self.clip_norm)
        object.__setattr__(self, "curriculum", _pairs("curriculum", self.curriculum))
        object.__setattr__(self, "learning_rate_changes", _pairs("learning_rate_changes", self.learning_rate_changes))
        self._check_pairs()

    def _check_pairs(self) -> None:
        _expect(len(self.curriculum) > 0, "a curriculum of at least one (length, share)", self.curriculum)
        for length, share in self.curriculum:
            _expect(
                _is_int(length, 1) and _is_positive(share),
                "a curriculum of (positive integer length, positive share)",
                (length, share),
            )
        total = math.fsum(share for _, share in self.curriculum)
        _expect(abs(total - 1) <= _SHARE_TOLERANCE, "shares of the curriculum that sum to 1", total)
        previous = -1
        for step, rate in self.learning_rate_changes:
            _expect(
                _is_int(step, previous + 1) and _is_positive(rate),
                "learning_rate_changes of (step, positive rate) with steps that increase from 0 or more",
                self.learning_rate_changes,
            )
            previous = step


def published(steps: int = 1_000_000) -> TrainingConfig:
    """The recipe of SQAIR: RMSProp at 1e-5 for days on a GPU (Kosiorek et al. 2018, Appendix D.1).

    The rate falls to 1/3 · 1e-5 after 400k and to 1e-6 after 1000k steps. Sequences have three frames at first and one
    more every 100k steps, up to ten. The paper trains for at most 2 · 10⁶ steps with early stopping, the released code
    for 10⁶ steps, both without warm-up and clipping.

    Args:
        steps: number of updates; scales the curriculum, but not the steps at which the rate falls.
    """
    cost = {length: float(length) for length in range(3, 10)} | {10: 3 * 10.0}
    total = sum(cost.values())
    return TrainingConfig(
        steps=steps,
        optimizer="rmsprop",
        learning_rate=1e-5,
        final_learning_rate=1e-5,
        learning_rate_changes=((400_000, 1e-5 / 3), (1_000_000, 1e-6)),
        warmup_steps=0,
        clip_norm=None,
        curriculum=tuple((length, part / total) for length, part in cost.items()),
        log_every=100,
        validate_every=10_000,
        checkpoint_every=10_000,
    )


def _is_int(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_positive(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _pairs(name: str, value: Any) -> tuple[tuple[Any, Any], ...]:
    try:
        return tuple((first, second) for first, second in value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected {name} to be a sequence of pairs, got {value!r}") from error


def _expect(holds: bool, expected: str, got: object) -> None:
    if not holds:
        raise ValueError(f"expected {expected}, got {got!r}")
