# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The commands of `pyro-sqair` and their arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

import pyro_sqair.cli
from pyro_sqair.cli.balls import Balls, read_colours
from pyro_sqair.cli.digits import Digits, Mnist
from pyro_sqair.cli.files import Convert, Info, Show
from pyro_sqair.cli.fit_prior import FitPrior
from pyro_sqair.cli.train import Train
from pyro_sqair.cli.video import Video

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


Command = (
    Annotated[Data, tyro.conf.subcommand("data")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[FitPrior, tyro.conf.subcommand("fit-prior")]
)


def parse(arguments: Sequence[str] | None) -> Data | Train | FitPrior:
    """The command that the arguments describe; None for those of the process."""
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(read_colours)
    return tyro.cli(
        Command,
        prog="pyro-sqair",
        description=pyro_sqair.cli.__doc__,
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
        registry=registry,
    )
