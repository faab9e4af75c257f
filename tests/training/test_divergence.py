# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""A training that diverges says so, keeps finite weights, and is not finished."""

import os
import signal

import pytest
import torch
from blinking import Bench, Hook, assert_identical, log, pair, weights

from pyro_sqair.training import Trainer, load_weights
from pyro_sqair.training.checkpoint import load_checkpoint
from pyro_sqair.training.weights import read_header


def overflow(steps: range) -> dict[int, Hook]:
    """Frames in these steps whose square overflows."""
    return {step: lambda frames: 1e30 * frames for step in steps}


def diverge(trainer: Trainer) -> str:
    with pytest.raises(FloatingPointError) as error:
        trainer.complete()
    return str(error.value)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
@pytest.mark.parametrize(
    ("bad", "kept", "where", "bound"),
    [
        (range(3, 24), 5, "steps 5 to 9, of 1 frames", 5),
        (range(20, 24), 20, "steps 20 to 23, of 3 frames", 20),  # the last interval, shorter than the others
    ],
)
def test_a_checkpoint_of_the_last_finite_weights_is_written(
    bench: Bench, optimizer: str, bad: range, kept: int, where: str, bound: int
) -> None:
    trainer = bench.trainer(optimizer=optimizer, hooks=overflow(bad))
    message = diverge(trainer)
    records = {record["step"]: record for record in log(trainer)}
    assert max(records) == bound
    last = f"{records[bound]['bound']:.1f} nats per frame at step {bound}"
    for words in (where, f"last finite bound in the log: {last}", f"finite weights of step {kept}", "--learning-rate"):
        assert words in message
    assert "learning_rate (now 0.01)" in message and "clip_norm (now 300)" in message

    before = weights(trainer)
    again = bench.trainer(optimizer=optimizer, pair_seed=3, hooks=overflow(range(24)))
    load_weights(again.folder.weights, again.objective.model, again.objective.guide, again.identity)
    assert all(weight.isfinite().all() for weight in weights(again).values())
    assert read_header(again.folder.weights).step == load_checkpoint(again.checkpoint)["step"] == kept
    assert where.split(",")[0] in diverge(again)  # not finished, and not past it
    assert_identical(weights(again), before)


def test_the_last_checkpoint_with_a_finite_bound_is_kept(bench: Bench) -> None:
    """Checkpoints would be due after steps 8, 12 and 14, with steps 10 to 14 skipped."""
    trainer = bench.trainer(checkpoint_every=2, hooks=overflow(range(10, 24)))
    assert "finite weights of step 10" in diverge(trainer)
    assert load_checkpoint(trainer.checkpoint)["step"] == 10

    whole = bench.trainer("whole")
    whole.run()
    again = bench.trainer(pair_seed=3)  # on frames that do not overflow
    assert again.complete()
    assert_identical(weights(again), weights(whole))


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_initial_weights_are_kept_if_no_step_was_ever_taken(bench: Bench, optimizer: str) -> None:
    for seed in (0, 3):  # a new run, and the same command again
        model, guide = pair(seed)
        model.pattern.register_hook(lambda gradient: gradient * float("nan"))
        run = bench.trainer(pair=(model, guide), optimizer=optimizer)
        message = diverge(run)
        assert "gradient in steps 0 to 4, of 1 frames" in message and "bound in the log: none" in message
        assert "finite weights of step 0" in message
        assert_identical(weights(run), weights(bench.trainer()))
        assert read_header(run.folder.weights).step == load_checkpoint(run.checkpoint)["step"] == 0


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_infinite_weights_are_not_saved(bench: Bench, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finite gradients, and a rate at which the weights overflow."""
    monkeypatch.setattr("pyro_sqair.training.trainer.learning_rate", lambda *_: 3e38)
    trainer = bench.trainer(optimizer=optimizer, checkpoint_every=1)
    message = diverge(trainer)
    assert "got NaN or infinity in model.logit" in message or "NaN or infinity in model.pattern" in message
    assert "checkpoint: none" in message
    assert {path.name for path in trainer.out.iterdir()} == {".lock", "experiment.json", "log.jsonl"}


def test_an_interruption_among_skipped_steps_is_resumed(bench: Bench) -> None:
    def press(frames: torch.Tensor) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGINT)
        return 1e30 * frames

    first = bench.trainer(hooks=overflow(range(5, 7)) | {7: press})
    assert not first.run()
    again = bench.trainer(pair_seed=3, hooks=overflow(range(24)))
    assert "steps 5 to 9" in diverge(again)
    assert load_checkpoint(again.checkpoint)["step"] == 8


def test_programs_that_cannot_draw_any_more(bench: Bench) -> None:
    """The guide's logits are NaN in step 3, and no Bernoulli variable can be drawn: not for lack of valid frames."""

    def poison(frames: torch.Tensor) -> None:
        with torch.no_grad():
            run.objective.guide.readout.weight.fill_(3e38)

    run = bench.trainer(hooks={3: poison}, checkpoint_every=2)
    message = diverge(run)
    assert "got Expected parameter logits" in message and "in step 3, of 1 frames" in message
    assert "finite weights of step 2" in message
    again = bench.trainer(pair_seed=3)
    assert again.complete()
