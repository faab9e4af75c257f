# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""`pyro-sqair data info`, `show` and `convert`: describe, draw and convert files of sequences."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from pyro_sqair.data import convert_rnem, open_sequences
from pyro_sqair.data.atomic import atomic_path
from pyro_sqair.data.files.writer import check_free


@dataclass
class Info:
    """Describes a file of sequences."""

    path: tyro.conf.Positional[Path]
    """a file of sequences, or one of R-NEM's"""
    split: Literal["training", "validation", "test"] = "training"
    """part of an R-NEM file"""

    def __call__(self) -> None:
        dataset = open_sequences(self.path, self.split)
        layout, most = dataset.layout, dataset.most_objects
        height, width = layout.image_size
        rows = {
            "sequences": f"{layout.sequences:,} of {layout.num_frames} frames",
            "frames": f"{height} x {width} px, {layout.channels} channel{'s' * (layout.channels > 1)}",
            "objects": "not annotated" if most is None else f"at most {most} in a frame",
            "collisions": "annotated" if layout.collisions else "not annotated",
            "generator": layout.generator,
            "seed": "none" if layout.seed is None else layout.seed,
            "parameters": json.dumps(layout.parameters),
            "size": f"{self.path.stat().st_size / 1e6:,.1f} MB",
        }
        print("\n".join([str(self.path), *(f"  {name:<11}{value}" for name, value in rows.items())]))


@dataclass
class Show:
    """Draws a contact sheet and an animation of a file's sequences, with the boxes of their objects."""

    path: tyro.conf.Positional[Path]
    """a file of sequences, or one of R-NEM's"""
    out: Path | None = None
    """folder of the pictures; by default the folder of the file"""
    first: int = 0
    """index of the first sequence"""
    sequences: int = 6
    """number of sequences"""
    columns: int = 12
    """the most frames in a row of the contact sheet"""
    fps: float = 5.0
    """frames per second of the animation, 0.002 to 100"""
    split: Literal["training", "validation", "test"] = "training"
    """part of an R-NEM file"""
    overwrite: bool = False
    """replace existing pictures"""

    def __call__(self) -> None:
        from pyro_sqair.viz import animate_ground_truth, draw_ground_truth  # here, since it imports matplotlib

        if self.sequences < 1 or self.first < 0:
            raise ValueError(f"expected sequences >= 1 and first >= 0, got {self.sequences} and {self.first}")
        folder = self.path.parent if self.out is None else self.out
        sheet, animation = folder / f"{self.path.stem}.png", folder / f"{self.path.stem}.gif"
        for picture in (sheet, animation):
            check_free(picture, self.overwrite)
        dataset = open_sequences(self.path, self.split)
        if self.first >= len(dataset):
            raise ValueError(f"expected first below the {len(dataset)} sequences of {self.path}, got {self.first}")
        sequences = dataset.read(slice(self.first, self.first + self.sequences))
        with atomic_path(sheet) as drawn, atomic_path(animation) as animated:  # both appear, or neither
            draw_ground_truth(sequences, drawn, self.sequences, self.columns)
            animate_ground_truth(sequences, animated, self.sequences, fps=self.fps)
        print(f"{sheet}\n{animation}")


@dataclass
class Convert:
    """Converts one split of an R-NEM file to a file of sequences, which trains faster."""

    source: tyro.conf.Positional[Path]
    """R-NEM's file, such as balls4mass64.h5"""
    out: tyro.conf.Positional[Path]
    """the file to write"""
    split: Literal["training", "validation", "test"] = "training"
    """part of the R-NEM file"""
    crop: int | None = 50
    """side of the central square of the frames to keep, pixels; None keeps whole frames"""
    overwrite: bool = False
    """replace an existing file"""

    def __call__(self) -> None:
        convert_rnem(self.source, self.split, self.out, self.crop, self.overwrite)
        print(f"{self.out}: {len(open_sequences(self.out))} sequences")
