# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""`pyro-sqair data digits` and `pyro-sqair data mnist`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from pyro_sqair.cli.generate import Split, write_splits
from pyro_sqair.data import (
    DigitImages,
    MotionConfig,
    MovingDigits,
    embedded_digits,
    gentle_motion,
    mnist_digits,
    published_motion,
)


@dataclass
class Digits:
    """Writes videos of scikit-learn's digits into a folder: train.h5 and test.h5."""

    out: tyro.conf.Positional[Path]
    """the folder"""
    motion: Annotated[MotionConfig, tyro.conf.arg(name="")] = field(default_factory=gentle_motion)
    train: int = 20000
    """sequences in train.h5; 0 for none"""
    test: int = 2000
    """sequences in test.h5, of other digits; 0 for none"""
    length: int = 10
    """frames in a sequence"""
    seed: int = 0
    """seed of all draws; the same seed gives the same files"""
    overwrite: bool = False
    """replace existing files"""

    def __call__(self) -> None:
        _write(self, embedded_digits, "embedded")


@dataclass
class Mnist:
    """Writes moving MNIST at its published scale into a folder: train.h5 and test.h5."""

    out: tyro.conf.Positional[Path]
    """the folder"""
    motion: Annotated[MotionConfig, tyro.conf.arg(name="")] = field(default_factory=published_motion)
    mnist: Path | None = None
    """folder with the four .gz files of MNIST; by default they are downloaded once"""
    train: int = 60000
    """sequences in train.h5; 0 for none"""
    test: int = 10000
    """sequences in test.h5, of the test digits; 0 for none"""
    length: int = 10
    """frames in a sequence"""
    seed: int = 0
    """seed of all draws; the same seed gives the same files"""
    overwrite: bool = False
    """replace existing files"""

    def __call__(self) -> None:
        _write(self, lambda split: mnist_digits(split, self.mnist), "mnist")


def _write(command: Digits | Mnist, digits: Callable[[str], DigitImages], name: str) -> None:
    def source(split: str) -> Callable[[], MovingDigits]:
        return lambda: MovingDigits(digits(split), command.motion)

    parameters = {"digits": name, "motion": asdict(command.motion)}
    sizes = {"train": command.train, "test": command.test}
    splits = [Split(split, sequences, source(split), parameters) for split, sequences in sizes.items()]
    write_splits(command.out, splits, "moving-digits", command.length, command.seed, command.overwrite)
