# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""A scene to draw in which every pixel and box is known, and the pixels of what was drawn."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import to_rgb
from PIL import Image, ImageSequence
from torch import Tensor

from pyro_sqair.scene.objects import Objects
from pyro_sqair.scene.spatial import where_from_boxes
from pyro_sqair.tracking.rollout import Rollout

INPUT, RECONSTRUCTION = "#004080", "#408000"  # colours of the frames of `moving_box`
HEIGHT, WIDTH = 40, 50


def moving_box(
    steps: int = 4, batch: int = 2, channels: int = 3, ids: tuple[int, ...] = (0,)
) -> tuple[Tensor, Rollout]:
    """Frames of the colour INPUT and a rollout with images of the colour RECONSTRUCTION; greys for one channel.

    The box of object n is (10 + 2 t, 12 n + 6, 16, 8). The last slot is absent.
    """
    first, second = ((0, 64, 128), (64, 128, 0)) if channels == 3 else ((64,), (128,))
    frames, image = (
        (torch.tensor(color) / 255).view(-1, 1, 1).expand(steps, batch, -1, HEIGHT, WIDTH) for color in (first, second)
    )
    name = torch.tensor([*ids, -1]).expand(steps, batch, -1)
    boxes = torch.tensor([10.0, 6.0, 16.0, 8.0]).expand(*name.shape, 4).clone()
    boxes[..., 0] += 2 * torch.arange(steps).view(-1, 1, 1)
    boxes[..., 1] += 12 * torch.arange(len(ids) + 1).clamp(max=2)
    where = where_from_boxes(boxes, (HEIGHT, WIDTH))
    return frames, Rollout(Objects((name >= 0).float(), where, torch.zeros(*name.shape, 1), name), image)


def read_image(path: Path) -> np.ndarray:
    """The pixels of an image, [H, W, 3]."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def read_gif(path: Path) -> np.ndarray:
    """The pixels of all images of a GIF, [T, H, W, 3]."""
    with Image.open(path) as image:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])


def has_color(pictures: np.ndarray, color: str, tolerance: int = 0) -> np.ndarray:
    """A mask [*, H, W] of the pixels of a colour. The colours of a GIF, at most 256, need a tolerance."""
    target = np.round(255 * np.array(to_rgb(color)))
    return (np.abs(pictures.astype(int) - target) <= tolerance).all(-1)


def extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    """First and last column, first and last row of a mask."""
    rows, columns = np.nonzero(mask)
    return columns.min(), columns.max(), rows.min(), rows.max()
