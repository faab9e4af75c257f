# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Images on disk."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pyro_sqair.data.atomic import atomic_path

_PALETTE_FRAMES = 8


def save_image(image: Image.Image, path: str | Path, **options: Any) -> None:
    """Writes an image whole or not at all, and makes its folder if it is missing.

    Args:
        image: what to write.
        path: its suffix says in which format.
        **options: passed to the format's writer, as to `PIL.Image.Image.save`.

    Raises:
        ValueError: if no image format has that suffix.
    """
    with atomic_path(path) as temporary:
        image.save(temporary, **options)


def check_gif(path: str | Path, fps: float) -> None:
    """Says before any drawing whether `save_gif` would take these.

    Raises:
        ValueError: if the path does not end in .gif, or `fps` is not positive.
    """
    if Path(path).suffix.lower() != ".gif":
        raise ValueError(f"expected a path that ends in .gif, got {path}")
    if fps <= 0:
        raise ValueError(f"expected fps above 0, got {fps}")


def save_gif(sheets: list[np.ndarray], path: str | Path, fps: float) -> None:
    """Writes an endless GIF with one palette for all images, so that a colour does not flicker.

    Args:
        sheets: 8-bit colours, each of shape [height, width, 3].
        path: of the GIF.
        fps: images per second.
    """
    some = sheets[:: -(-len(sheets) // _PALETTE_FRAMES)]
    palette = Image.fromarray(np.concatenate(some)).quantize(256)
    images = [Image.fromarray(sheet).quantize(palette=palette, dither=Image.Dither.NONE) for sheet in sheets]
    first, *rest = images
    save_image(first, path, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)
