# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""`pyro-sqair data balls`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from pyro_sqair.cli.generate import Split, write_splits
from pyro_sqair.data import BallsConfig, BouncingBalls, four_balls

Colours = tuple[tuple[float, ...], ...]


def read_colours(kind: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    """Parses `--colours 1,0,0 0,0,1` and `--colours 0.5`; by default, tyro would generate an option for each number."""
    if kind.type != Colours:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="[GREY|RED,GREEN,BLUE ...]",
        instance_from_str=lambda words: tuple(tuple(float(value) for value in word.split(",")) for word in words),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda colours: [",".join(map(str, colour)) for colour in colours],
    )


@dataclass
class Balls:
    """Writes videos of colliding balls into a folder: train.h5, test.h5, and generalise.h5 with more balls."""

    out: tyro.conf.Positional[Path]
    """the folder"""
    balls: Annotated[BallsConfig, tyro.conf.arg(name="")] = field(default_factory=four_balls)
    generalise_balls: tuple[int, int] = (6, 8)
    """fewest and most balls in generalise.h5"""
    train: int = 50000
    """sequences in train.h5; 0 for none"""
    test: int = 1000
    """sequences in test.h5; 0 for none"""
    generalise: int = 1000
    """sequences in generalise.h5; 0 for none"""
    length: int = 51
    """frames in a sequence"""
    seed: int = 0
    """seed of all draws; the same seed gives the same files"""
    overwrite: bool = False
    """replace existing files"""

    def __call__(self) -> None:
        fewest, most = self.generalise_balls
        more = replace(self.balls, min_balls=fewest, max_balls=most)
        splits = [
            Split(name, sequences, lambda config=config: BouncingBalls(config), asdict(config))  # type: ignore[misc]
            for name, sequences, config in (
                ("train", self.train, self.balls),
                ("test", self.test, self.balls),
                ("generalise", self.generalise, more),
            )
        ]
        write_splits(self.out, splits, "bouncing-balls", self.length, self.seed, self.overwrite)
