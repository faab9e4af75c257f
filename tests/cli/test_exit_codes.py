# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""`pyro-sqair train … && next` goes on only after a finished training; each command in a process of its own."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import pyro_sqair
from pyro_sqair.data import BouncingBalls, four_balls, write_sequences

MODULE = [sys.executable, "-m", "pyro_sqair.cli"]
SCRIPT = [sys.executable, str(Path(sys.executable).with_name("pyro-sqair"))]
SMALL = ["--steps", "22", "--threads", "1", "--sequences", "4", "--hidden", "8", "--what-dim", "4"]

# Imports that end with Ctrl-C.
INTERRUPTED_IMPORT = """
import sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == "torch":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
from pyro_sqair.cli import main
sys.exit(main(["train", "x.h5"]))
"""


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code and what is written to stderr."""
    _, errors = process.communicate()
    assert "Traceback" not in errors
    return process.returncode, errors


def test_ctrl_c_while_modules_are_imported() -> None:
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED_IMPORT], stderr=subprocess.PIPE, text=True)
    assert finish(process) == (130, "pyro-sqair: interrupted\n")


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts a training in the folder `run`."""
    for name, seed in (("train", 1), ("test", 2)):
        path = tmp_path / f"{name}.h5"
        write_sequences(path, BouncingBalls(four_balls()), 6, 3, seed, generator="balls", progress=False)

    def start(command: list[str], *arguments: str, **options: object) -> subprocess.Popen[str]:
        arguments = ("train", str(tmp_path / "train.h5"), "--out", str(tmp_path / "run"), *SMALL, *arguments)
        return subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True, **options)  # type: ignore

    return start


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", [MODULE, SCRIPT])
def test_interrupted_training(start: Callable, tmp_path: Path, command: list[str], number: int) -> None:
    process = start(command)
    shown = ""
    while "0/22" not in shown:  # the progress line, from which on training handles signals
        shown += os.read(process.stderr.fileno(), 1).decode()
    process.send_signal(number)
    code, errors = finish(process)
    assert code == 130
    assert "saved in" in errors and "the same call or command continues it" in errors
    assert finish(start(command))[0] == 0
    pyro_sqair.load(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("command", [MODULE, SCRIPT])
def test_diverging_training(start: Callable, tmp_path: Path, command: list[str]) -> None:
    for _ in range(2):  # the same command again is not finished
        code, errors = finish(start(command, "--learning-rate", "1e30"))
        assert code == 1
        assert "got Expected parameter" in errors and "in step 1, of 3 frames" in errors and "--learning-rate" in errors
    _, model, guide = pyro_sqair.load(tmp_path / "run")
    assert all(weight.isfinite().all() for program in (model, guide) for weight in program.parameters())


@pytest.mark.slow
def test_full_disk(start: Callable, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))

    code, errors = finish(start(MODULE, preexec_fn=limit))
    assert code == 1
    assert "File too large, so this file was not written; there is no checkpoint" in errors
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"experiment.json", "log.jsonl"}
    assert finish(start(MODULE))[0] == 0
