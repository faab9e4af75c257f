# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The schedule of an estimator is resumed with the run."""

import os
import signal

import pytest
import torch

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
    for name, weight in whole.objective.state_dict().items():
        assert torch.equal(second.objective.state_dict()[name], weight)

    plain = bench.trainer("plain")
    plain.run()
    assert any(
        not torch.equal(plain.objective.state_dict()[name], weight)
        for name, weight in whole.objective.state_dict().items()
    )


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
    before = {name: weight.clone() for name, weight in second.objective.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        second.resume()
    assert second.step == 0
    assert all(torch.equal(second.objective.state_dict()[name], weight) for name, weight in before.items())
