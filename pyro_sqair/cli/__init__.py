# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The command line: `pyro-sqair data …` makes and shows files of sequences, `train` trains, `fit-prior` fits priors."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

# User errors and diverged trainings: reported without a traceback. Any other exception is a bug.
_USER_ERRORS = (ValueError, OSError, ImportError, FloatingPointError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command of `pyro-sqair`.

    Args:
        arguments: the command-line arguments; by default those of the process.

    Returns:
        The exit code: 0, 1 after a user error or if training diverged, or 130 if the command was interrupted.
    """

    def command() -> None:
        from pyro_sqair.cli.commands import parse

        parse(arguments)()

    return _report(command, "pyro-sqair")


def run(program: Callable[..., None], arguments: Sequence[str] | None = None) -> int:
    """Calls a function with options from the command line, one for each parameter; reports errors as :func:`main` does.

    Args:
        program: the function; its docstring is the help.
        arguments: the command-line arguments; by default those of the process.

    Returns:
        The exit code; see :func:`main`.
    """

    def command() -> None:
        import tyro

        tyro.cli(program, args=arguments)

    return _report(command, Path(sys.argv[0]).name)


def _report(command: Callable[[], None], name: str) -> int:
    """Runs a command and returns its exit code; `name` is that of the program, in messages."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        """Prints a warning without its place in the source, on a line of its own below a progress bar."""
        print(f"\n{name}: warning: {message}", file=sys.stderr)

    try:
        # Here and in the commands, since PyTorch and Pyro take seconds, in which Ctrl-C must be handled as well.
        from pyro_sqair.experiments import Interrupted

        try:
            with warnings.catch_warnings():
                warnings.showwarning = show
                command()
        except _USER_ERRORS as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        except Interrupted:  # saved; the training has said so
            return 130
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    return 0
