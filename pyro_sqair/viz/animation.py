# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Moving pictures: the rows of a figure beside each other, and time as time."""

from pathlib import Path

from torch import Tensor

from pyro_sqair.tracking.rollout import Rollout
from pyro_sqair.viz.files import check_gif, save_gif
from pyro_sqair.viz.mosaic import Mosaic
from pyro_sqair.viz.pictures import as_pictures, check_rollout
from pyro_sqair.viz.strips import Strip
from pyro_sqair.viz.tracks import inferred

_HEADER, _GAP, _BETWEEN, _WORDS = 30, 4, 20, 18  # pixels: above, within and between groups, of the letters


def animate_tracks(
    frames: Tensor,
    rollout: Rollout,
    path: str | Path,
    sequences: int = 6,
    columns: int = 3,
    zoom: int | None = None,
    fps: float = 5.0,
) -> None:
    """Writes an endless GIF: each input beside its reconstruction with boxes, coloured by the object's id.

    Args:
        frames: the input, shape [T, B, C, H, W].
        rollout: what guide and model make of it, as many frames or more.
        path: of the GIF.
        sequences: shows at most so many, the first of the batch.
        columns: pairs of frames beside each other.
        zoom: pixels per pixel of a frame; if not given, so that a frame is about 200 wide.
        fps: frames per second.

    Raises:
        ValueError: if the shapes do not fit, the path does not end in .gif, or a number is not positive.
    """
    check_rollout(rollout, frames)
    strips = [Strip("input", as_pictures(frames[:, :sequences])), inferred(rollout, sequences, "inferred")]
    animate(strips, path, columns, zoom, fps)


def animate(strips: list[Strip], path: str | Path, columns: int, zoom: int | None, fps: float) -> None:
    """Writes an endless GIF with the strips of a sequence beside each other, and sequences in rows of `columns`.

    Args:
        strips: of equally many sequences, with frames of the same size; as long as the first.
        path: of the GIF.
        columns: sequences beside each other.
        zoom: pixels per pixel of a frame; if not given, so that a frame is about 200 wide.
        fps: frames per second.

    Raises:
        ValueError: if the path does not end in .gif, or a number is not positive.
    """
    check_gif(path, fps)
    if columns < 1:
        raise ValueError(f"expected columns of at least 1, got {columns}")
    length, batch, height, width, _ = strips[0].pictures.shape
    zoom = zoom or max(1, round(200 / width))
    pitch, row = width * zoom + _GAP, height * zoom + _BETWEEN
    group = len(strips) * pitch - _GAP + _BETWEEN
    columns = min(columns, batch)
    rows = -(-batch // columns)
    names = " | ".join(strip.label for strip in strips)

    sheets = []
    for t in range(length):
        mosaic = Mosaic(columns * group - _BETWEEN, _HEADER + rows * row - _BETWEEN, zoom)
        for b in range(batch):
            left, top = b % columns * group, _HEADER + b // columns * row
            for i, strip in enumerate(strips):
                outlines = strip.outlines[t][b] if strip.outlines else ()
                mosaic.frame(strip.pictures[t, b], left + i * pitch, top, outlines)
        mosaic.text(f"t = {t + 1}   {names}", 4, _HEADER / 2, _WORDS, align="left")
        sheets.append(mosaic.render())
    save_gif(sheets, path, fps)
