# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Where a command ends: exit codes, user errors without a traceback, and help that names options only."""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from pyro_sqair.cli import main, run
from pyro_sqair.experiments import Interrupted


@pytest.fixture(autouse=True)
def name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of the program in messages of :func:`run`."""
    monkeypatch.setattr(sys, "argv", ["examples/made"])


COMMANDS = {  # with their positional arguments
    "": "", "data": "", "data digits": "out", "data mnist": "out", "data balls": "out", "data video": "in out",
    "data convert": "in out", "data info": "in", "data show": "in", "train": "in", "fit-prior": "run",
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("words", ["--help", "--no-such 1", "--seed x"])
def test_help_and_errors_name_the_option(command: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(f"{command} {COMMANDS[command]} {words}".split())
    out, err = capsys.readouterr()
    assert stop.value.code == (0 if words == "--help" else 2)
    assert words.split()[0] in out + err and "tyro" not in out + err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("expected a, got b"), 1, "made: expected a, got b\n"),
        (FileNotFoundError("no such file"), 1, "made: no such file\n"),
        (KeyboardInterrupt(), 130, "made: interrupted\n"),
        (Interrupted(), 130, ""),
    ],
)
def test_exit_codes(error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(raising(error), []) == code
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("error", [RuntimeError(), TypeError(), KeyError(), AssertionError(), IndexError()])
def test_a_bug_is_not_a_user_error(error: Exception) -> None:
    with pytest.raises(type(error)):
        run(raising(error), [])


def test_options_are_the_parameters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = []

    def program(out: Path, steps: int = 3) -> None:
        made.append((out, steps))
        warnings.warn("expected more, found less", stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert run(program, ["--out", str(tmp_path)]) == 0
    assert made == [(tmp_path, 3)]
    assert capsys.readouterr().err == "\nmade: warning: expected more, found less\n"


def raising(error: BaseException) -> Callable[[], None]:
    def program() -> None:
        raise error

    return program
