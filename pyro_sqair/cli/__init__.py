# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The command line: `pyro-sqair data …` makes and shows files of sequences, `pyro-sqair train …` learns from one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from pyro_sqair.cli.balls import Balls
from pyro_sqair.cli.digits import Digits, Mnist
from pyro_sqair.cli.files import Convert, Info, Show
from pyro_sqair.cli.train import Train
from pyro_sqair.cli.video import Video

# What a command says no to: bad input, by its own words. Anything else is a bug, and keeps its traceback.
_REFUSALS = (ValueError, OSError, ImportError)

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
        arguments: the words after the program's name; by default those it was called with.

    Returns:
        0; 1 if the command said no to what it was given; 130 if it was interrupted.
    """
    command = tyro.cli(
        Command,
        prog="pyro-sqair",
        description=__doc__,
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
    )
    try:
        command()
    except _REFUSALS as error:
        print(f"pyro-sqair: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("pyro-sqair: interrupted", file=sys.stderr)
        return 130
    return 0
