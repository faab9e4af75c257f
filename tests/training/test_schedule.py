# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

import math

import pytest

from pyro_sqair.training import TrainingConfig, learning_rate, sequence_length, work

SHARES = ((3, 0.40), (4, 0.15), (6, 0.20), (10, 0.25))


def test_warm_up_is_linear_then_half_a_cosine() -> None:
    config = TrainingConfig(
        steps=15, warmup_steps=4, learning_rate=1.0, final_learning_rate=0.2, curriculum=((3, 1.0),)
    )
    rates = [learning_rate(step, config) for step in range(15)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[9] == pytest.approx(0.6, abs=1e-15)  # half way from step 4 to step 14
    assert rates[14] == pytest.approx(0.2, abs=1e-15)
    assert rates[6] == pytest.approx(0.2 + 0.4 * (1 + math.cos(0.2 * math.pi)), abs=1e-15)


def test_cosine_is_a_function_of_work() -> None:
    """Eleven steps of length 1, then five of length 2; the first is the warm-up."""
    config = TrainingConfig(
        steps=16, warmup_steps=1, learning_rate=1.0, final_learning_rate=0.5, curriculum=((1, 0.5), (2, 0.5))
    )
    assert [sequence_length(step, config) for step in range(16)] == [1] * 11 + [2] * 5
    # Between steps 1 and 15 there are 10 frames in short steps and 8 in long ones.
    assert learning_rate(11, config) == pytest.approx(0.5 + 0.25 * (1 + math.cos(math.pi * 10 / 18)), abs=1e-15)
    assert learning_rate(15, config) == pytest.approx(0.5, abs=1e-15)


def test_warm_up_longer_than_the_run() -> None:
    config = TrainingConfig(steps=3, warmup_steps=10, learning_rate=1.0)
    assert [learning_rate(step, config) for step in range(3)] == [0.1, 0.2, 0.3]


def test_changes_replace_the_cosine() -> None:
    config = TrainingConfig(steps=8, warmup_steps=2, learning_rate=1.0, learning_rate_changes=((3, 0.5), (6, 0.1)))
    assert [learning_rate(step, config) for step in range(8)] == [0.5, 1, 1, 0.5, 0.5, 0.5, 0.1, 0.1]


def test_shares_are_fractions_of_the_compute() -> None:
    """With half of the compute each, sequences twice as long get half as many steps."""
    config = TrainingConfig(steps=300, curriculum=((3, 0.5), (6, 0.5)))
    lengths = [sequence_length(step, config) for step in range(300)]
    assert lengths == [3] * 200 + [6] * 100
    assert [work(step, config) for step in (0, 1, 200, 201, 300)] == [0, 3, 600, 606, 1200]


@pytest.mark.parametrize("steps", [1, 2, 7, 100, 5600])
def test_curriculum_covers_every_step_in_order(steps: int) -> None:
    config = TrainingConfig(steps=steps, curriculum=SHARES)
    lengths = [sequence_length(step, config) for step in range(steps)]
    assert lengths == sorted(lengths)
    assert [work(step, config) for step in range(steps + 1)] == [sum(lengths[:step]) for step in range(steps + 1)]
    # A stage ends at the step nearest to the end of its share of the compute.
    for length, share in SHARES:
        assert abs(lengths.count(length) * length - share * sum(lengths)) <= 2 * 10 + 1e-9
