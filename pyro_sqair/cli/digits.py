# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""`pyro-sqair data digits` and `pyro-sqair data mnist`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from pyro_sqair.cli.generate import Split, settings, write_splits
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
    motion: MotionConfig = field(default_factory=gentle_motion)
    train: int = 20000
    """sequences in train.h5; 0 for none"""
    test: int = 2000
    """sequences in test.h5, of other digits; 0 for none"""
    length: int = 10
    """frames in a sequence"""
    seed: int = 0
    """of all draws; the same seed gives the same files"""
    overwrite: bool = False
    """replace files that exist"""

    def __call__(self) -> None:
        _write(self, embedded_digits, "moving-digits", {"digits": "embedded"})


@dataclass
class Mnist:
    """Writes moving MNIST at its published scale into a folder: train.h5 and test.h5."""

    out: tyro.conf.Positional[Path]
    """the folder"""
    motion: MotionConfig = field(default_factory=published_motion)
    mnist: Path | None = None
    """folder with MNIST's four .gz files; without it they are downloaded, once"""
    train: int = 60000
    """sequences in train.h5; 0 for none"""
    test: int = 10000
    """sequences in test.h5, of the test digits; 0 for none"""
    length: int = 10
    """frames in a sequence"""
    seed: int = 0
    """of all draws; the same seed gives the same files"""
    overwrite: bool = False
    """replace files that exist"""

    def __call__(self) -> None:
        _write(self, lambda split: mnist_digits(split, self.mnist), "moving-digits", {"digits": "mnist"})


def _write(
    command: Digits | Mnist, digits: Callable[[str], DigitImages], generator: str, parameters: dict[str, str]
) -> None:
    motion = command.motion

    def source(split: str) -> Callable[[], MovingDigits]:
        return lambda: MovingDigits(digits(split), motion)

    splits = [
        Split(name, sequences, source(name), parameters | {"motion": settings(motion)})
        for name, sequences in (("train", command.train), ("test", command.test))
    ]
    write_splits(command.out, splits, generator, command.length, command.seed, command.overwrite)
