# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""What all areas use: the cases, their mutations, and tiny data."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pyro_sqair.data import BallsConfig, BouncingBalls, write_sequences

DATA, CHANGED = Path("data"), Path("changed")
SMALL = "--slots 2 --hidden 8 --what-dim 2 --glimpse 8 8 --steps 1 --sequences 1 --threads 1".split()


class Case(NamedTuple):
    """A mutation and a command: `call` returns its exit code. `refused`: whether it must be an error."""

    name: str
    refused: bool
    call: Callable[[], int]


def flip(content: bytes, rng: random.Random) -> bytes:
    """Flips one bit."""
    at = rng.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


def cut(content: bytes, rng: random.Random) -> bytes:
    """Removes the end."""
    return content[: rng.randrange(len(content))]


def write_data() -> bytes:
    """Writes tiny train.h5 and test.h5; returns the content of the former."""
    shutil.rmtree(DATA, ignore_errors=True)
    balls = BouncingBalls(BallsConfig(box=20, crop=16, min_balls=1, max_balls=2))
    for seed, name in enumerate(("train", "test")):
        write_sequences(DATA / f"{name}.h5", balls, 4, 3, seed, generator="balls", progress=False)
    return (DATA / "train.h5").read_bytes()
