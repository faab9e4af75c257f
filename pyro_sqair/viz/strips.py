# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""A figure of rows of frames: time runs to the right, the rows of a sequence lie one below another."""

from typing import NamedTuple

import numpy as np

from pyro_sqair.viz.mosaic import Mosaic
from pyro_sqair.viz.pictures import Outlines

_CELL = 150  # pixels: about how wide a frame is drawn
_MARGIN, _GAP, _BETWEEN, _WORDS = (
    30,
    5,
    18,
    18,
)  # pixels: at the edges, between frames and sequences, of the letters


class Strip(NamedTuple):
    """One row of frames for each sequence.

    Attributes:
        label: stands to the left of it.
        pictures: shape [T, B, H, W, 3]; the row goes on blank where it is shorter than another.
        outlines: the boxes in these frames; None for no boxes.
    """

    label: str
    pictures: np.ndarray
    outlines: Outlines | None = None


def arrange(strips: list[Strip], columns: int, seen: int | None = None) -> Mosaic:
    """Lays out a figure: the strips of a sequence one below another, the sequences below one another.

    Args:
        strips: of equally many sequences, with frames of the same size.
        columns: the largest number of frames in a row.
        seen: draws a line after so many frames, and says which were seen and which imagined.

    Raises:
        ValueError: if there is no room for a frame.
    """
    if columns < 1:
        raise ValueError(f"expected columns of at least 1, got {columns}")
    length = max(len(strip.pictures) for strip in strips)
    times = np.unique(np.linspace(0, length - 1, min(columns, length)).round().astype(int)).tolist()
    batch, height, width = strips[0].pictures.shape[1:4]
    zoom = max(1, round(_CELL / width))
    pitch, row = width * zoom + _GAP, height * zoom + _GAP
    group = row * len(strips) + _BETWEEN - _GAP
    header = _MARGIN if seen is None else 2 * _MARGIN
    sheet_height = header + batch * group - _BETWEEN + _GAP
    mosaic = Mosaic(_MARGIN + len(times) * pitch, sheet_height, zoom)

    for column, t in enumerate(times):
        left = _MARGIN + column * pitch
        mosaic.text(f"t = {t + 1}", left + (pitch - _GAP) / 2, header - _MARGIN / 2, _WORDS)
        for b in range(batch):
            for r, strip in enumerate(strips):
                top = header + b * group + r * row
                if t < len(strip.pictures):
                    outlines = strip.outlines[t][b] if strip.outlines else ()
                    mosaic.frame(strip.pictures[t, b], left, top, outlines)
                else:
                    mosaic.blank(left, top, (height, width))
    for b in range(batch):
        for r, strip in enumerate(strips):
            middle = header + b * group + r * row + (row - _GAP) / 2
            mosaic.text(strip.label, _MARGIN / 2, middle, _WORDS, turned=True)
    if seen is not None:
        shown = sum(t < seen for t in times)
        _name_parts(mosaic, _MARGIN + shown * pitch - _GAP / 2, sheet_height, imagined=shown < len(times))
    return mosaic


def _name_parts(mosaic: Mosaic, border: float, bottom: int, imagined: bool) -> None:
    """Says on which side of the border the frames were seen, and on which imagined."""
    mosaic.text("← seen ", border, _MARGIN / 2, _WORDS, align="right")
    if imagined:
        mosaic.text(" imagined →", border, _MARGIN / 2, _WORDS, align="left")
        mosaic.divider(border, 0, bottom)
