# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""`pyro-sqair data info`, `show` and `convert`: what is in a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from pyro_sqair.data import convert_rnem, is_rnem, open_sequences, summarise
from pyro_sqair.data.hdf5.sequence_file import check_free
from pyro_sqair.viz import animate_ground_truth, draw_ground_truth


@dataclass
class Info:
    """Prints what a file of sequences holds."""

    path: tyro.conf.Positional[Path]
    """the file"""

    def __call__(self) -> None:
        if is_rnem(self.path):
            raise ValueError(
                f"expected a file of sequences, got one of R-NEM's: {self.path}; `pyro-sqair train` takes it as it is, "
                "`pyro-sqair data convert` makes a file of sequences of it"
            )
        print(summarise(self.path))


@dataclass
class Show:
    """Draws a contact sheet and an animation of a file's sequences, with the boxes of their objects."""

    path: tyro.conf.Positional[Path]
    """a file of sequences, or one of R-NEM's"""
    out: Path | None = None
    """folder of the pictures; by default that of the file"""
    first: int = 0
    """index of the first sequence to show"""
    sequences: int = 6
    """how many to show"""
    columns: int = 12
    """frames in a row of the contact sheet, at most"""
    fps: float = 5.0
    """frames per second of the animation"""
    split: Literal["training", "validation", "test"] = "training"
    """which part of a file of R-NEM's"""
    overwrite: bool = False
    """replace pictures that exist"""

    def __call__(self) -> None:
        if self.sequences < 1 or self.first < 0:
            raise ValueError(f"expected sequences >= 1 and first >= 0, got {self.sequences} and {self.first}")
        folder = self.path.parent if self.out is None else self.out
        sheet, animation = folder / f"{self.path.stem}.png", folder / f"{self.path.stem}.gif"
        for picture in (sheet, animation):
            check_free(picture, self.overwrite)
        with_truth = open_sequences(self.path, self.split)
        if self.first >= len(with_truth):
            raise ValueError(f"expected first below the {len(with_truth)} sequences of {self.path}, got {self.first}")
        sequences = with_truth.read(slice(self.first, self.first + self.sequences))
        with_truth.close()
        draw_ground_truth(sequences, sheet, self.sequences, self.columns)
        animate_ground_truth(sequences, animation, self.sequences, fps=self.fps)
        print(f"{sheet}\n{animation}")


@dataclass
class Convert:
    """Makes a file of sequences of one part of a file of R-NEM's, which trains faster than the original."""

    source: tyro.conf.Positional[Path]
    """the file of R-NEM's, such as balls4mass64.h5"""
    out: tyro.conf.Positional[Path]
    """the file to make"""
    split: Literal["training", "validation", "test"] = "training"
    """which part of it"""
    crop: int | None = 50
    """side of the square cut from the middle of the frames, pixels; None takes whole frames"""
    overwrite: bool = False
    """replace the file if it exists"""

    def __call__(self) -> None:
        convert_rnem(self.source, self.split, self.out, self.crop, self.overwrite)
        print(f"{self.out}: {summarise(self.out).layout.sequences} sequences")
