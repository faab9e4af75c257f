# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""What a dataset holds: its frames, and the boxes of the objects that are known to be in them."""

from pathlib import Path

from pyro_sqair.data import Sequences
from pyro_sqair.viz.animation import animate
from pyro_sqair.viz.palette import PALETTE, color_of
from pyro_sqair.viz.pictures import Outline, Outlines, as_pictures
from pyro_sqair.viz.strips import Strip, arrange


def draw_ground_truth(sequences: Sequences, path: str | Path, rows: int = 6, columns: int = 12) -> None:
    """Draws a contact sheet: one row of frames for each sequence, with boxes coloured by the object's id.

    Args:
        sequences: what to draw; without objects (M = 0) there are just frames.
        path: of the image; the format follows from the suffix.
        rows: draws at most so many sequences, the first of the batch.
        columns: draws at most so many frames, evenly spread from the first to the last.

    Raises:
        ValueError: if the shapes do not fit.
    """
    arrange([_truth(sequences.slice(slice(rows)), "frames")], columns).save(path)


def animate_ground_truth(
    sequences: Sequences,
    path: str | Path,
    rows: int = 6,
    columns: int = 3,
    zoom: int | None = None,
    fps: float = 5.0,
) -> None:
    """Writes an endless GIF of sequences with the boxes of their objects.

    Args:
        sequences: what to draw.
        path: of the GIF.
        rows: shows at most so many sequences, the first of the batch.
        columns: sequences beside each other.
        zoom: pixels per pixel of a frame; if not given, so that a frame is about 200 wide.
        fps: frames per second.

    Raises:
        ValueError: if the shapes do not fit, the path does not end in .gif, or a number is not positive.
    """
    animate([_truth(sequences.slice(slice(rows)), "ground truth")], path, columns, zoom, fps)


def _truth(sequences: Sequences, label: str) -> Strip:
    boxes, present, ids = (field.tolist() for field in (sequences.boxes, sequences.present, sequences.ids))
    colors = [
        _colors({identity for objects in steps for identity in objects if identity >= 0})
        for steps in zip(*ids, strict=True)
    ]
    outlines: Outlines = [
        [
            [Outline(tuple(boxes[t][b][m]), colors[b][ids[t][b][m]]) for m, there in enumerate(objects) if there]
            for b, objects in enumerate(batch)
        ]
        for t, batch in enumerate(present)
    ]
    return Strip(label, as_pictures(sequences.frames), outlines)


def _colors(ids: set[int]) -> dict[int, str]:
    """The colour of each id in a sequence: its own, or the next that is free: ids of recordings can be any numbers."""
    places: dict[int, int] = {}
    for identity in sorted(ids):
        free = [k for k in range(identity, identity + len(PALETTE)) if k % len(PALETTE) not in places.values()]
        places[identity] = (free or [identity])[0] % len(PALETTE)
    return {identity: color_of(place) for identity, place in places.items()}
