# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The files of a run that was killed after its first step, which `load` reads and the training continues."""

import contextlib
import io
import json
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from case import CHANGED, DATA, Case, cut, flip, write_data

import pyro_sqair
from pyro_sqair.cli import run
from pyro_sqair.experiments import FileVideos, file_experiment
from pyro_sqair.training import Trainer
from pyro_sqair.training.weights import read_header

RUN, TRAINED = Path("run"), Path("trained")


def runs() -> list[Case]:
    """The cases."""
    write_data()
    rng, cases = random.Random(1), []
    experiment = file_experiment(FileVideos(DATA / "train.h5"), 2, (8, 8), 2, 8)
    settings = {"batch_size": 2, "num_particles": 2, "checkpoint_every": 1, "log_every": 1}
    experiment = experiment.with_training(steps=2, **settings)
    save = Trainer._save
    for folder in (RUN, TRAINED):
        shutil.rmtree(folder, ignore_errors=True)

    def killed(trainer: Trainer) -> None:
        save(trainer)
        raise KeyboardInterrupt

    clock = mock.Mock(monotonic=lambda: 0.0)  # so that the files are the same in every process
    with mock.patch("pyro_sqair.training.trainer.time", clock):
        with mock.patch.object(Trainer, "_save", killed), contextlib.suppress(KeyboardInterrupt):
            experiment.train(RUN, device="cpu", progress=False)
        loaded, continued = pyro_sqair.load(RUN), experiment.train(TRAINED, device="cpu", progress=False)

    def same(run: Any, expected: Any) -> None:
        assert run.experiment.identity() == expected.experiment.identity(), "accepted with another identity"
        for ours, theirs in zip(run[1:], expected[1:], strict=True):
            for name, value in theirs.state_dict().items():
                assert torch.equal(ours.state_dict()[name], value), f"accepted with other weights: {name}"

    def load() -> None:
        step = read_header(CHANGED / "weights.safetensors").step
        same(pyro_sqair.load(CHANGED), loaded)
        assert step == 1, f"accepted with step {step}"

    def train() -> None:
        same(experiment.train(CHANGED, device="cpu", progress=False), continued)

    def read(command: Callable[[], None], name: str, new: bytes) -> int:
        shutil.rmtree(CHANGED, ignore_errors=True)
        shutil.copytree(RUN, CHANGED)
        (CHANGED / name).write_bytes(new)
        return run(command, [])

    readers = {"weights.safetensors": (load,), "checkpoint.pt": (train,), "experiment.json": (load, train)}
    content = {name: (RUN / name).read_bytes() for name in (*readers, "log.jsonl")}
    for name, old in content.items():
        for mutate, number in ((flip, 25 if name in readers else 8), (cut, 5)):
            for command in rng.choices(readers.get(name, (train,)), k=number):
                refused = mutate is cut and name in readers
                call = partial(read, command, name, mutate(old, rng))
                cases.append(Case(f"{command.__name__}: {mutate.__name__} of {name}", refused, call))
    description, identity = json.loads(content["experiment.json"]), dict(leaves(experiment.identity()))
    for path, value in leaves(description["experiment"]):
        changed = replaced(description, ("experiment", *path), other(value))
        refused = path in identity
        call = partial(read, rng.choice((load, train)), "experiment.json", json.dumps(changed).encode())
        cases.append(Case(f"experiment.json: {path} = {other(value)!r}", refused, call))
    state = torch.load(io.BytesIO(content["checkpoint.pt"]), weights_only=True)
    found = [*leaves(state)]
    found = [leaf for leaf in found if len(leaf[0]) == 1 or leaf[0][0] == "random"] + rng.sample(found, 40)
    for path, value in found:
        changes = [None, -1, 10**30, float("nan"), "x", [], {}, torch.zeros(1, 2, 3)]
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel():
            changes += [value * float("nan"), value[..., None], value.double(), value.flatten()[1:]]
        for changed in rng.sample(changes, 2):
            buffer = io.BytesIO()
            torch.save(replaced(state, path, changed), buffer)
            words = f"tensor {list(changed.shape)} {changed.dtype}" if isinstance(changed, torch.Tensor) else changed
            call = partial(read, train, "checkpoint.pt", buffer.getvalue())
            cases.append(Case(f"checkpoint.pt: {path} = {words}", False, call))
    for line in ("[]", "1", "null", '{"kind": "train"}', '{"kind": "train", "step": "x"}', "\ufffd", "{", "[" * 9999):
        new = content["log.jsonl"] + f"{line}\n".encode()
        cases.append(Case(f"log.jsonl: {line[:40]}", False, partial(read, train, "log.jsonl", new)))
    return cases


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Values in nested dictionaries and lists, with their keys."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    found = [leaf for key, entry in items for leaf in leaves(entry, (*path, key))]
    yield from found or [(path, value)]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of nested dictionaries and lists with another value at the end of a path."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


def other(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int | float) else f"{value}x" if isinstance(value, str) else 1
