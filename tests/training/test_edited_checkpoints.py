# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""A checkpoint with an entry that this run cannot have is refused; then the trainer is as it was."""

import copy
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from blinking import Bench, assert_identical, log, pair, weights
from torch import nn

from pyro_sqair.infer import VIMCO, RenyiWarmup
from pyro_sqair.training import Trainer

NAN, INF = float("nan"), float("inf")
DROP = object()

# Entry, its new value (or a function of the old one, or DROP), and what the error says besides the file.
EDITS: list[tuple[str, Any, str]] = [
    ("identity", ["blinking"], "expected identity of type"),
    ("identity/name", torch.zeros(2), "name: expected 'blinking', got 'tensor"),
    ("config", None, "expected config of type"),
    ("config/steps", 25, "steps: expected 24, got 25"),
    ("step", DROP, "one without ['step']"),
    *(("step", value, "expected step of type") for value in (True, 14.0, "14", None, torch.tensor(14))),
    *(("step", value, f"expected a step in 0 to 24, got {value}") for value in (25, 10**30)),
    ("step", -1, "expected skipped in 0 to step, got 0 and -1"),
    *(("skipped", value, "expected skipped of type") for value in (True, 0.0)),
    *(("skipped", value, f"expected skipped in 0 to step, got {value} and 14") for value in (-1, 15)),
    *(("seconds", value, "expected seconds") for value in (NAN, INF, -0.5, "1.5", 1)),
    *(("metrics", value, "expected metrics") for value in ([0.5], {"a": "b"}, {1: 0.5}, {"a": torch.zeros(())})),
    ("sums", torch.zeros(2), "sums: expected float32 [3], got float32 [2]"),
    ("sums", torch.zeros(3, dtype=torch.float64), "sums: expected float32 [3], got float64 [3]"),
    ("sums", [0.0, 0.0, 0.0], "expected sums of type"),
    *(("random", value, "expected random") for value in ({}, [1])),
    ("random/cpu", lambda old: old[:-1], "expected random"),
    ("random/cpu", lambda old: old.float(), "expected random"),
    ("random/cpu", lambda old: torch.full_like(old, 255), "expected random"),
    ("estimator", [], "expected estimator of type"),
    *(("estimator/step", value, "expected the state of a warm-up") for value in (-1, True, 1.5, DROP)),
    ("estimator/steps", 16, "expected the state of a warm-up"),
    ("unused", {}, "expected unused of type"),
    ("unused", ["model.pattern"], "optimizer.model.pattern.exp_avg: expected nothing, got float32 [4]"),
    ("unused", [], "optimizer.guide.idle.exp_avg: expected float32 [2], got nothing"),
    ("optimizer", {}, "optimizer.model.pattern.exp_avg_sq: expected float32 [4], got nothing"),
    ("optimizer/model.pattern", {}, "optimizer.model.pattern.exp_avg: expected float32 [4], got nothing"),
    ("optimizer/model.pattern/step", DROP, "optimizer.model.pattern.step: expected float32 [], got nothing"),
    ("optimizer/model.pattern/step", 14, "optimizer.model.pattern.step: expected float32 [], got 14"),
    ("optimizer/model.pattern/exp_avg", torch.zeros(1), "exp_avg: expected float32 [4], got float32 [1]"),
    ("optimizer/model.pattern/exp_avg_sq", lambda old: old.double(), "exp_avg_sq: expected float32 [4], got float64"),
    ("optimizer/model.pattern/more", torch.zeros(4), "more: expected nothing, got float32 [4]"),
    ("average", None, "average.model.pattern: expected float32 [4], got nothing"),
    ("average/model.pattern", DROP, "average.model.pattern: expected float32 [4], got nothing"),
    ("average/model.pattern", torch.zeros(5), "average.model.pattern: expected float32 [4], got float32 [5]"),
    ("average/model.pattern", torch.full((4,), NAN), "got NaN or infinity in average.model.pattern"),
    ("weights", {}, "weights.model.pattern: expected float32 [4], got nothing"),
    ("weights/model.pattern", [1.0] * 4, "weights.model.pattern: expected float32 [4], got [1.0"),
    ("weights/model.pattern", lambda old: old.half(), "weights.model.pattern: expected float32 [4], got float16 [4]"),
    ("weights/model.pattern", torch.full((4,), INF), "got NaN or infinity in weights.model.pattern"),
    ("weights/guide.pattern", torch.full((4,), NAN), "got NaN or infinity in weights.guide.pattern"),
    ("weights/more", torch.zeros(1), "weights.more: expected nothing, got float32 [1]"),
]
RMSPROP = [
    ("optimizer/model.pattern/momentum_buffer", DROP, "momentum_buffer: expected float32 [4], got nothing"),
    ("optimizer/model.pattern/square_avg", torch.zeros(2), "square_avg: expected float32 [4], got float32 [2]"),
]


def trainer(bench: Bench, name: str, optimizer: str, seed: int = 0, **changes: Any) -> Trainer:
    """A trainer with a schedule of its estimator and a parameter that no step uses."""
    model, guide = pair(seed)
    guide.idle = nn.Parameter(torch.zeros(2))
    warmup = RenyiWarmup(VIMCO(2), steps=15)
    return bench.trainer(name, pair=(model, guide), optimizer=optimizer, elbo=warmup, **changes)


def edit(payload: dict[str, Any], entry: str, value: Any) -> dict[str, Any]:
    """The payload with another value."""
    *folders, name = entry.split("/")
    place = payload
    for folder in folders:
        place = place[folder]
    place[name] = value(place[name]) if callable(value) else value
    if value is DROP:
        del place[name]
    return payload


def state(run: Trainer) -> dict[str, Any]:
    return {
        "weights": weights(run),
        "average": copy.deepcopy(run.average.values),
        "optimizer": copy.deepcopy(run.updater.state_dict()),
        "estimator": run.estimator.state_dict(),
        "random": run._random,
        "sums": run._meter.sums.clone(),
        "rest": (run.step, run.skipped, run.metrics, run.seconds, run._meter.logged, run.folder.saved),
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, device: torch.device) -> dict[str, tuple[Trainer, Path]]:
    """By optimiser: an uninterrupted run, and the folder of the same run, interrupted after step 14."""
    found = {}
    for optimizer in ("adam", "rmsprop"):
        bench = Bench(tmp_path_factory.mktemp(optimizer), device)
        whole = trainer(bench, "whole", optimizer)
        assert whole.run()
        parts = trainer(bench, "parts", optimizer, hooks={13: lambda _: os.kill(os.getpid(), signal.SIGINT)})
        assert not parts.run()
        found[optimizer] = whole, parts.out
    return found


@pytest.mark.parametrize(
    ("optimizer", "entry", "value", "words"),
    [("adam", *case) for case in EDITS] + [("rmsprop", *case) for case in RMSPROP],
)
def test_edited_entry_is_refused(bench: Bench, runs: Any, optimizer: str, entry: str, value: Any, words: str) -> None:
    whole, interrupted = runs[optimizer]
    again = trainer(bench, "parts", optimizer, seed=3)
    shutil.copytree(interrupted, again.out)
    torch.save(edit(torch.load(again.checkpoint, weights_only=True), entry, value), again.checkpoint)
    before = copy.deepcopy(state(again))
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        again.resume()
    assert str(again.checkpoint) in str(error.value)
    assert_identical(state(again), before)

    shutil.copy(interrupted / "checkpoint.pt", again.checkpoint)
    again.resume()
    assert again.run()
    assert_identical(weights(again), weights(whole))
    assert log(again) == log(whole)


def test_moments_in_another_memory_format_are_copied(bench: Bench, runs: Any) -> None:
    """The fused kernel reads and writes them in the order of the weights."""
    whole, interrupted = runs["adam"]
    again = trainer(bench, "parts", "adam")
    shutil.copytree(interrupted, again.out)
    payload = torch.load(again.checkpoint, weights_only=True)
    moments = payload["optimizer"]["guide.readout.weight"]
    moments["exp_avg"] = moments["exp_avg"].t().contiguous().t()
    torch.save(payload, again.checkpoint)
    again.resume()
    assert again.run()
    assert_identical(weights(again), weights(whole))
