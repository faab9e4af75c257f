# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Pictures of a dataset: its frames with the boxes of the annotated objects."""

from pathlib import Path

import torch
from torch import Tensor

from pyro_sqair.data import Sequences
from pyro_sqair.viz.palette import PALETTE
from pyro_sqair.viz.strips import Strip, animate_strips, draw_strips, make_strip


def draw_ground_truth(sequences: Sequences, path: str | Path, rows: int = 6, columns: int = 12) -> None:
    """Draws one row of frames for each sequence, with boxes coloured by the object's id.

    Args:
        sequences: what to draw; without objects (M = 0) there are no boxes.
        path: of the image; the suffix determines the format.
        rows: largest number of sequences, from the start of the batch.
        columns: largest number of frames, evenly spaced from the first to the last.

    Raises:
        ValueError: if the shapes do not fit, `columns` is below 1, or the image format is unknown.
    """
    draw_strips([_truth(sequences.slice(slice(rows)), "frames")], path, columns)


def animate_ground_truth(sequences: Sequences, path: str | Path, rows: int = 6, fps: float = 5.0) -> None:
    """Writes a looping GIF of sequences with boxes coloured by the object's id.

    Args:
        sequences: what to draw; without objects (M = 0) there are no boxes.
        path: of the GIF.
        rows: largest number of sequences, from the start of the batch.
        fps: frames per second.

    Raises:
        ValueError: if the shapes do not fit, the path does not end in .gif, or `fps` is not from 0.002 to 100.
    """
    animate_strips([_truth(sequences.slice(slice(rows)), "ground truth")], path, fps)


def _truth(sequences: Sequences, label: str) -> Strip:
    return make_strip(label, sequences.frames, sequences.boxes, _with_distinct_colors(sequences.ids))


def _with_distinct_colors(ids: Tensor) -> Tensor:
    """Replaces ids [T, B, M], which can be any numbers, by ids whose colours are distinct within a sequence.

    In order, each id takes its own colour or, if that is taken, the next free one.
    """
    replaced = torch.full_like(ids, -1)
    for b in range(ids.shape[1]):
        taken: set[int] = set()
        for name in ids[:, b].unique().tolist():
            if name >= 0:
                places = [k % len(PALETTE) for k in range(name, name + len(PALETTE))]
                place = next((place for place in places if place not in taken), places[0])
                taken.add(place)
                replaced[:, b][ids[:, b] == name] = place
    return replaced
