# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

import re
from typing import Any

import pytest

from pyro_sqair.training import TrainingConfig, published, sequence_length
from pyro_sqair.training.schedule import learning_rate, stage_bounds


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("steps", 0, "expected steps to be a positive integer, got 0"),
        ("batch_size", 2.0, "expected batch_size to be a positive integer, got 2.0"),
        ("num_particles", True, "expected num_particles to be a positive integer, got True"),
        ("log_every", -1, "expected log_every to be a positive integer, got -1"),
        ("validate_every", 0, "expected validate_every to be a positive integer, got 0"),
        ("checkpoint_every", 0, "expected checkpoint_every to be a positive integer, got 0"),
        ("warmup_steps", -1, "expected warmup_steps to be an integer, 0 or more, got -1"),
        ("seed", -3, "expected seed to be an integer, 0 or more, got -3"),
        ("learning_rate", float("nan"), "expected learning_rate to be positive and at most 1, got nan"),
        ("learning_rate", 1e30, "expected learning_rate to be positive and at most 1, got 1e+30"),
        ("final_learning_rate", 0.0, "expected final_learning_rate to be positive and at most 1, got 0.0"),
        ("optimizer", "sgd", "expected optimizer 'adam' or 'rmsprop', got 'sgd'"),
        ("momentum", 1.0, "expected momentum in [0, 1), got 1.0"),
        ("ema_decay", 1.0, "expected ema_decay in [0, 1), got 1.0"),
        ("clip_norm", 0.0, "expected clip_norm positive or None, got 0.0"),
        ("curriculum", (), "expected a curriculum of at least one (length, share), got ()"),
        ("curriculum", ((3, 0.5), (4, 0.4)), "expected shares of the curriculum that sum to 1, got 0.9"),
        (
            "curriculum",
            ((0, 1.0),),
            "expected a curriculum of (positive integer length, positive share), got (0, 1.0)",
        ),
        ("curriculum", (3, 4), "expected curriculum to be a sequence of pairs, got (3, 4)"),
        ("steps", 10**30, "expected steps of at most 2**53"),
        ("learning_rate_changes", ((5, 1.0), (5, 0.1)), "with steps that increase"),
    ],
)
def test_invalid_settings(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        TrainingConfig(**{field: value})


def test_published_recipe() -> None:
    """Lengths 3 to 10, increased every 100k steps; the learning rate falls after 400k (Kosiorek et al. 2018, D.1)."""
    config = published()
    assert stage_bounds(config) == [*range(0, 800_000, 100_000), 1_000_000]
    assert [sequence_length(step, config) for step in (0, 99_999, 100_000, 699_999, 700_000, 999_999)] == [
        3, 3, 4, 9, 10, 10,
    ]  # fmt: skip
    assert [learning_rate(step, config) for step in (0, 399_999, 400_000)] == [1e-5, 1e-5, 1e-5 / 3]
    assert learning_rate(1_000_000, published(2_000_000)) == 1e-6
