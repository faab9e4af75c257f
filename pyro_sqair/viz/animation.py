# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Moving pictures of tracked objects."""

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from pyro_sqair.rollout import Rollout
from pyro_sqair.viz.files import save_image
from pyro_sqair.viz.mosaic import Mosaic
from pyro_sqair.viz.pictures import as_outlines, as_pictures, check_rollout

_HEADER, _GAP, _BETWEEN, _WORDS = (
    30,
    4,
    20,
    18,
)  # pixels: above, within and between pairs of frames, of the letters
_PALETTE_FRAMES = 8


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
    if Path(path).suffix.lower() != ".gif":
        raise ValueError(f"expected a path that ends in .gif, got {path}")
    if columns < 1 or fps <= 0:
        raise ValueError(f"expected columns and fps above 0, got {columns} and {fps}")
    inputs, images = as_pictures(frames[:, :sequences]), as_pictures(rollout.image[:, :sequences])
    outlines = as_outlines(rollout.objects, images.shape[2:4])
    _, batch, height, width, _ = inputs.shape
    zoom = zoom or max(1, round(200 / width))
    pair, row = 2 * width * zoom + _GAP, height * zoom + _BETWEEN
    columns = min(columns, batch)
    rows = -(-batch // columns)

    sheets = []
    for t in range(len(inputs)):
        mosaic = Mosaic(columns * (pair + _BETWEEN) - _BETWEEN, _HEADER + rows * row - _BETWEEN, zoom)
        for b in range(batch):
            left, top = b % columns * (pair + _BETWEEN), _HEADER + b // columns * row
            mosaic.frame(inputs[t, b], left, top)
            mosaic.frame(images[t, b], left + width * zoom + _GAP, top, outlines[t][b])
        mosaic.text(f"t = {t + 1}   input | inferred", 4, _HEADER / 2, _WORDS, align="left")
        sheets.append(mosaic.render())
    _write_gif(sheets, path, fps)


def _write_gif(sheets: list[np.ndarray], path: str | Path, fps: float) -> None:
    """Writes 8-bit colour images with one palette for all, so that a colour does not flicker."""
    some = sheets[:: -(-len(sheets) // _PALETTE_FRAMES)]
    palette = Image.fromarray(np.concatenate(some)).quantize(256)
    images = [Image.fromarray(sheet).quantize(palette=palette, dither=Image.Dither.NONE) for sheet in sheets]
    first, *rest = images
    save_image(first, path, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)
