# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The schedule of an estimator is resumed with the run."""

import os
import signal

import pytest
import torch
from blinking import assert_identical, weights

from pyro_sqair.infer import VIMCO, RenyiWarmup


def warmup(steps: int = 15) -> RenyiWarmup:
    return RenyiWarmup(VIMCO(2), steps=steps)


def test_resumed_warm_up_equals_an_uninterrupted_one(bench) -> None:
    whole = bench.trainer("whole", elbo=warmup())
    assert whole.run()
    assert whole.estimator.step == 24

    first = bench.trainer("parts", elbo=warmup(), hooks={6: lambda _: os.kill(os.getpid(), signal.SIGINT)})
    assert not first.run()
    second = bench.trainer("parts", elbo=warmup(), pair_seed=3)
    second.resume()
    assert second.estimator.step == 7
    assert second.run()
    assert_identical(weights(second), weights(whole))

    plain = bench.trainer("plain")
    plain.run()
    assert not torch.equal(weights(plain)["model.pattern"], weights(whole)["model.pattern"])


@pytest.mark.parametrize(
    ("saved", "other", "words"),
    [
        (lambda: warmup(), lambda: warmup(16), "expected the state of a warm-up with"),
        (lambda: warmup(), lambda: VIMCO(2), "an estimator without a schedule"),
        (lambda: VIMCO(2), lambda: warmup(), "expected the state of a warm-up with"),
    ],
)
def test_resuming_another_schedule_fails_and_changes_nothing(bench, saved, other, words) -> None:
    first = bench.trainer("run", elbo=saved())
    first.run()
    second = bench.trainer("run", elbo=other(), pair_seed=3)
    before = weights(second)
    with pytest.raises(ValueError, match=words):
        second.resume()
    assert second.step == 0
    assert_identical(weights(second), before)
