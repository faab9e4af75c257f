# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The command line: `pyro-sqair data …` makes and shows files of sequences, `pyro-sqair train …` trains on one."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

# User errors and diverged trainings: reported without a traceback. Any other exception is a bug.
_USER_ERRORS = (ValueError, OSError, ImportError, FloatingPointError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: the command-line arguments; by default those of the process.

    Returns:
        The exit code: 0, 1 after a user error or if training diverged, or 130 if the command was interrupted.
    """
    try:
        # Here, since PyTorch and Pyro take seconds, in which Ctrl-C must be handled as well.
        from pyro_sqair.cli.commands import parse
        from pyro_sqair.experiments import Interrupted

        command = parse(arguments)
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                command()
        except _USER_ERRORS as error:
            print(f"pyro-sqair: {error}", file=sys.stderr)
            return 1
        except Interrupted:  # saved; the training has said so
            return 130
    except KeyboardInterrupt:
        print("pyro-sqair: interrupted", file=sys.stderr)
        return 130
    return 0


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Prints a warning without its place in the source, on a line of its own below a progress bar."""
    print(f"\npyro-sqair: warning: {message}", file=sys.stderr)
