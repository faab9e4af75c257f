# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""An interrupted run continues as if it had not been interrupted, and no other run is overwritten."""

import copy
import os
import re
import signal
from typing import Any

import pytest
import torch
from blinking import assert_identical, log, weights
from torch import Tensor, nn

from pyro_sqair.training import Trainer


def metrics(trainer: Trainer) -> dict[str, float]:
    """A validation with draws, to test that they do not affect those of training."""
    with torch.no_grad():
        return {"count_accuracy": 0.5, "draw": torch.rand(()).item(), "pattern": sum_of(trainer)}


def sum_of(trainer: Trainer) -> float:
    return float(dict(trainer.objective.named_parameters())["model.pattern"].sum())


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
@pytest.mark.parametrize("at", [0, 6, 13, 22])
def test_resumed_run_equals_an_uninterrupted_one(bench, at: int, optimizer: str, capsys) -> None:
    whole = bench.trainer("whole", optimizer=optimizer)
    whole.validate = lambda step: metrics(whole)
    assert whole.run()

    def press_ctrl_c(frames: Tensor) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    first = bench.trainer("parts", optimizer=optimizer, hooks={at: press_ctrl_c})
    first.validate = lambda step: metrics(first)
    assert not first.run()
    assert first.step == at + 1
    assert f"interrupted after step {at + 1}" in capsys.readouterr().err

    torch.manual_seed(99)
    second = bench.trainer("parts", optimizer=optimizer, pair_seed=3)
    second.validate = lambda step: metrics(second)
    second.resume()
    assert second.step == at + 1
    assert second.run()

    assert log(second) == log(whole)
    assert {record["step"] for record in log(whole)} == {5, 7, 10, 14, 15, 20, 21, 24}
    left, right = (torch.load(t.checkpoint, weights_only=True, map_location="cpu") for t in (second, whole))
    assert left.pop("seconds") > 0 < right.pop("seconds")
    assert_identical(left, right)
    assert_identical(weights(second), weights(whole))


def test_interrupted_and_continued_in_the_same_process(bench) -> None:
    whole = bench.trainer("whole")
    whole.run()
    parts = bench.trainer("parts", hooks={9: lambda _: os.kill(os.getpid(), signal.SIGTERM)})
    assert not parts.run()
    torch.rand(5)
    assert parts.run()
    assert_identical(weights(parts), weights(whole))
    assert log(parts) == log(whole)


def test_resumed_after_a_crash(bench) -> None:
    whole = bench.trainer("whole", checkpoint_every=4)
    whole.run()

    def crash(frames: Tensor) -> None:
        raise OSError("the disk is gone")

    crashed = bench.trainer("crashed", checkpoint_every=4, hooks={18: crash})
    with pytest.raises(OSError, match="the disk is gone"):
        crashed.run()
    assert [record["step"] for record in log(crashed)] == [5, 10, 15]
    with (crashed.out / "log.jsonl").open("a") as file:
        file.write('{"kind": "validation", "step": 17, "seconds": 1.0}\n{"kind": "tr')

    again = bench.trainer("crashed", checkpoint_every=4, pair_seed=8)
    again.resume()
    assert again.step == 16
    again.run()
    assert_identical(weights(again), weights(whole))
    assert log(again) == log(whole)


def test_a_second_ctrl_c_aborts_at_once(bench) -> None:
    def press_twice(frames: Tensor) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    trainer = bench.trainer(hooks={7: press_twice})
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert signal.getsignal(signal.SIGINT) is before
    assert not trainer.checkpoint.exists()


def test_a_finished_run_does_nothing(bench) -> None:
    trainer = bench.trainer()
    trainer.run()
    files = {path: path.read_bytes() for path in trainer.out.iterdir()}
    written = {".lock", "checkpoint.pt", "experiment.json", "log.jsonl", "weights.safetensors"}
    assert {path.name for path in files} == written
    drawn = len(trainer.source.lengths)
    assert trainer.run()
    again = bench.trainer(pair_seed=1)
    again.resume()
    assert again.run()
    assert (len(trainer.source.lengths), again.source.lengths) == (drawn, [])
    assert {path: path.read_bytes() for path in trainer.out.iterdir()} == files


def test_a_new_run_keeps_the_checkpoint_of_another(bench) -> None:
    trainer = bench.trainer()
    trainer.run()
    before = trainer.checkpoint.read_bytes()
    with pytest.raises(FileExistsError, match=r"a folder without a checkpoint, got .*run"):
        bench.trainer().run()
    assert trainer.checkpoint.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"identity": {"name": "sparkling"}}, "name: expected 'sparkling', got 'blinking'"),
        ({"seed": 4}, "seed: expected 4, got 0"),
        ({"curriculum": ((2, 1.0),)}, "curriculum: expected [[2, 1.0]], got [[1, 0.3], [3, 0.7]]"),
        ({"ema_decay": 0.0}, "ema_decay: expected 0.0, got 0.9"),
        ({"outputs": 4}, "guide.readout.weight: expected float32 [4, 5], got float32 [3, 5]"),
    ],
)
def test_a_checkpoint_of_another_run_changes_nothing(bench, changes: dict[str, Any], message: str) -> None:
    saved = bench.trainer(steps=6)
    saved.run()
    files = {path: path.read_bytes() for path in saved.out.iterdir()}
    other = bench.trainer(steps=6, pair_seed=1, **{k: v for k, v in changes.items() if k != "outputs"})
    if "outputs" in changes:
        model, guide = other.objective.model, other.objective.guide
        guide.readout = nn.Linear(5, changes["outputs"])
        other = bench.trainer(steps=6, pair=(model, guide))
    before, random = weights(other), copy.deepcopy(other._random)
    with pytest.raises(ValueError, match=re.escape(message)):
        other.resume()
    assert_identical(weights(other), before)
    assert_identical(other._random, random)
    assert (other.step, len(other.updater.optimizer.state)) == (0, 0)
    assert {path: path.read_bytes() for path in saved.out.iterdir()} == files


def test_intervals_may_change_when_resuming(bench) -> None:
    saved = bench.trainer(checkpoint_every=8, hooks={10: lambda _: 1 / 0})  # type: ignore[arg-type, return-value]
    with pytest.raises(ZeroDivisionError):
        saved.run()
    other = bench.trainer(checkpoint_every=3, validate_every=2)
    other.resume()
    assert other.step == 8
