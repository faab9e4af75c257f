# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The command line: `pyro-sqair data …` makes and shows files of sequences, `pyro-sqair train …` trains on one."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from pyro_sqair.cli.balls import Balls, read_colours
from pyro_sqair.cli.digits import Digits, Mnist
from pyro_sqair.cli.files import Convert, Info, Show
from pyro_sqair.cli.train import Train
from pyro_sqair.cli.video import Video
from pyro_sqair.experiments import Interrupted

# User errors: reported without a traceback. Any other exception is a bug.
_USER_ERRORS = (ValueError, OSError, ImportError)

DataCommand = (
    Annotated[Digits, tyro.conf.subcommand("digits")]
    | Annotated[Mnist, tyro.conf.subcommand("mnist")]
    | Annotated[Balls, tyro.conf.subcommand("balls")]
    | Annotated[Video, tyro.conf.subcommand("video")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Info, tyro.conf.subcommand("info")]
    | Annotated[Show, tyro.conf.subcommand("show")]
)


@dataclass
class Data:
    """Makes, describes and shows files of sequences."""

    command: DataCommand

    def __call__(self) -> None:
        self.command()


Command = Annotated[Data, tyro.conf.subcommand("data")] | Annotated[Train, tyro.conf.subcommand("train")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: the command-line arguments; by default those of the process.

    Returns:
        The exit code: 0, 1 after a user error, or 130 if the command was interrupted.
    """
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(read_colours)
    command = tyro.cli(
        Command,
        prog="pyro-sqair",
        description=__doc__,
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
        registry=registry,
    )
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
