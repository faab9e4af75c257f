# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Images on disk."""

from pathlib import Path
from typing import Any

from PIL import Image

from pyro_sqair.atomic import atomic_path


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
