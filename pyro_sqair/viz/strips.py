# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Layout of video: as a figure in which time runs to the right, or as an animation."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pyro_sqair.data.atomic import atomic_path
from pyro_sqair.data.sequences import require
from pyro_sqair.viz.mosaic import Mosaic, Outline
from pyro_sqair.viz.palette import color_of

# All in pixels.
_FIGURE_FRAME, _ANIMATION_FRAME = 150, 200  # approximate width of a frame
_MARGIN, _FIGURE_GAP, _ANIMATION_GAP = 30, 5, 4  # at the edges; between frames
_FIGURE_GROUP_GAP, _ANIMATION_GROUP_GAP = 18, 20  # between sequences
_FONT = 18

_ANIMATION_COLUMNS = 3  # sequences in a row
_SLOWEST, _FASTEST = 0.002, 100  # frames per second: a GIF stores 1 to 65,535 hundredths of a second a frame
_PALETTE_FRAMES = 8  # the palette of an animation is computed from at most this many of its images


class Strip(NamedTuple):
    """One row of frames for each sequence.

    Attributes:
        label: text at its left.
        pictures: 8-bit RGB, shape [T, B, H, W, 3]; a row shorter than another one is continued with blank frames.
        outlines: for each frame, for each sequence, its boxes; None for no boxes.
    """

    label: str
    pictures: np.ndarray
    outlines: list[list[list[Outline]]] | None = None


def make_strip(label: str, frames: Tensor, boxes: Tensor | None = None, ids: Tensor | None = None) -> Strip:
    """Converts tensors to a strip.

    Args:
        label: text at its left.
        frames: grey or colour, clipped to [0, 1], shape [T, B, C, H, W] with C of 1 or 3.
        boxes: left, top, width, height in pixels, shape [T, B, N, 4]; None for no boxes.
        ids: determine the colours of the boxes, shape [T, B, N]; -1 where absent.

    Raises:
        ValueError: if the frames have another shape.
    """
    if frames.dim() != 5 or frames.shape[2] not in (1, 3) or 0 in frames.shape:
        raise ValueError(f"expected frames of shape [T, B, 1 or 3, H, W], got {list(frames.shape)}")
    pixels = (frames.detach().clamp(0, 1) * 255).round().to(torch.uint8).movedim(2, -1)
    pictures = pixels.expand(*pixels.shape[:-1], 3).cpu().numpy()
    if boxes is None or ids is None:
        return Strip(label, pictures)
    outlines = [
        [
            [Outline(tuple(box), color_of(name)) for box, name in zip(*objects, strict=True) if name >= 0]
            for objects in zip(*sequences, strict=True)
        ]
        for sequences in zip(boxes.detach().tolist(), ids.tolist(), strict=True)
    ]
    return Strip(label, pictures, outlines)


def draw_strips(strips: list[Strip], path: str | Path, columns: int, seen: int | None = None) -> None:
    """Draws a figure: the strips of a sequence below each other, then those of the next sequence.

    Args:
        strips: with the same number of sequences and the same size of frames.
        path: of the image; the suffix determines the format.
        columns: largest number of frames in a row, evenly spaced from the first to the last.
        seen: marks the border after this many frames as that between seen and imagined frames.

    Raises:
        ValueError: if `columns` is below 1, or the image format is unknown.
    """
    require(columns >= 1, "columns of at least 1", columns)
    require(Path(path).suffix, "a path with the suffix of an image format, such as .png", path)
    length = max(len(strip.pictures) for strip in strips)
    times = np.unique(np.linspace(0, length - 1, min(columns, length)).round().astype(int)).tolist()
    batch, height, width = strips[0].pictures.shape[1:4]
    zoom = max(1, round(_FIGURE_FRAME / width))
    pitch, row = width * zoom + _FIGURE_GAP, height * zoom + _FIGURE_GAP
    group = row * len(strips) + _FIGURE_GROUP_GAP - _FIGURE_GAP
    header = _MARGIN if seen is None else 2 * _MARGIN
    bottom = header + batch * group - _FIGURE_GROUP_GAP + _FIGURE_GAP
    mosaic = Mosaic(_MARGIN + len(times) * pitch, bottom, zoom)

    for column, t in enumerate(times):
        middle = _MARGIN + column * pitch + width * zoom / 2
        mosaic.text(f"t = {t + 1}", middle, header - _MARGIN / 2, _FONT)
    for b in range(batch):
        for r, strip in enumerate(strips):
            top = header + b * group + r * row
            mosaic.text(strip.label, _MARGIN / 2, top + height * zoom / 2, _FONT, rotation=90)
            for column, t in enumerate(times):
                left = _MARGIN + column * pitch
                if t < len(strip.pictures):
                    outlines = strip.outlines[t][b] if strip.outlines else ()
                    mosaic.frame(strip.pictures[t, b], left, top, outlines)
                else:
                    mosaic.blank(left, top, (height, width))
    if seen is not None:
        shown = sum(t < seen for t in times)
        border = _MARGIN + shown * pitch - _FIGURE_GAP / 2
        mosaic.text("← seen ", border, _MARGIN / 2, _FONT, align="right")
        if shown < len(times):
            mosaic.text(" imagined →", border, _MARGIN / 2, _FONT, align="left")
            mosaic.divider(border, 0, bottom)
    with atomic_path(path) as temporary:
        Image.fromarray(mosaic.render()).save(temporary)


def animate_strips(strips: list[Strip], path: str | Path, fps: float) -> None:
    """Writes a looping GIF: the strips of a sequence side by side, three sequences in a row.

    Args:
        strips: with the same number of sequences and the same size of frames; the first determines the length.
        path: of the GIF.
        fps: frames per second; rounded to a whole number of hundredths of a second a frame.

    Raises:
        ValueError: if the path does not end in .gif, or `fps` is not from 0.002 to 100.
    """
    require(Path(path).suffix.lower() == ".gif", "a path that ends in .gif", path)
    require(_SLOWEST <= fps <= _FASTEST, f"fps from {_SLOWEST} to {_FASTEST}, as a GIF can have", fps)
    length, batch, height, width, _ = strips[0].pictures.shape
    zoom = max(1, round(_ANIMATION_FRAME / width))
    pitch, row = width * zoom + _ANIMATION_GAP, height * zoom + _ANIMATION_GROUP_GAP
    group = len(strips) * pitch - _ANIMATION_GAP + _ANIMATION_GROUP_GAP
    columns = min(_ANIMATION_COLUMNS, batch)
    rows = -(-batch // columns)
    labels = " | ".join(strip.label for strip in strips)

    images = []
    for t in range(length):
        size = columns * group - _ANIMATION_GROUP_GAP, _MARGIN + rows * row - _ANIMATION_GROUP_GAP
        mosaic = Mosaic(*size, zoom)
        for b in range(batch):
            left, top = b % columns * group, _MARGIN + b // columns * row
            for i, strip in enumerate(strips):
                outlines = strip.outlines[t][b] if strip.outlines else ()
                mosaic.frame(strip.pictures[t, b], left + i * pitch, top, outlines)
        mosaic.text(f"t = {t + 1}   {labels}", 4, _MARGIN / 2, _FONT, align="left")
        images.append(mosaic.render())
    # One palette for all images, or colours would flicker.
    palette = Image.fromarray(np.concatenate(images[:: -(-length // _PALETTE_FRAMES)])).quantize(256)
    first, *rest = (Image.fromarray(image).quantize(palette=palette, dither=Image.Dither.NONE) for image in images)
    with atomic_path(path) as temporary:
        first.save(temporary, save_all=True, append_images=rest, duration=10 * round(100 / fps), loop=0)
