# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""A canvas for enlarged video frames with boxes and text, exact to the pixel."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

INK = "#404040"
EMPTY = "#EBEBEB"


class Outline(NamedTuple):
    """A box to draw: left, top, width and height in pixels of the frame, and its colour."""

    box: tuple[float, float, float, float]
    color: str


class Mosaic:
    """A canvas with pixel coordinates from the top left, on which frames are placed enlarged by `zoom`.

    Frames are copied into an array without resampling; matplotlib draws only the boxes, lines and text.

    Args:
        width: of the canvas in pixels.
        height: of the canvas in pixels.
        zoom: pixels of the canvas per pixel of a frame.

    Raises:
        ValueError: if one of them is below 1.
    """

    def __init__(self, width: int, height: int, zoom: int) -> None:
        if min(width, height, zoom) < 1:
            raise ValueError(f"expected width, height and zoom of at least 1, got {width}, {height} and {zoom}")
        self.zoom = zoom
        self._pixels = np.full((height, width, 3), 255, dtype=np.uint8)
        # At 72 dpi a point is a pixel, for font sizes and line widths too. Without the small addition matplotlib
        # would sometimes round down and lose a pixel.
        self._figure = Figure(figsize=((width + 0.01) / 72, (height + 0.01) / 72), dpi=72)
        self._canvas = FigureCanvasAgg(self._figure)
        self._axes = self._figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        self._axes.set_axis_off()

    def frame(self, picture: np.ndarray, left: int, top: int, outlines: Iterable[Outline] = ()) -> None:
        """Places a frame with its corner at (left, top) and draws boxes over it, clipped to the frame.

        Args:
            picture: 8-bit RGB, shape [H, W, 3].
            left: in pixels of the canvas.
            top: in pixels of the canvas.
            outlines: boxes in pixels of the frame.
        """
        enlarged = picture.repeat(self.zoom, 0).repeat(self.zoom, 1)
        height, width, _ = enlarged.shape
        self._pixels[top : top + height, left : left + width] = enlarged
        inside = Rectangle((left, top), width, height, transform=self._axes.transData)
        line = max(2.0, self.zoom)  # one pixel of the frame, but never too thin to see
        for outline in outlines:
            x, y, w, h = (self.zoom * side for side in outline.box)
            patch = Rectangle((left + x, top + y), w, h, fill=False, edgecolor=outline.color, linewidth=line)
            self._axes.add_patch(patch)
            patch.set_clip_path(inside)

    def blank(self, left: int, top: int, size: tuple[int, int]) -> None:
        """Fills the place of a missing frame of that size (height, width)."""
        color = (255 * np.array(to_rgb(EMPTY))).astype(np.uint8)
        self._pixels[top : top + self.zoom * size[0], left : left + self.zoom * size[1]] = color

    def text(self, text: str, x: float, y: float, size: float, *, align: str = "center", rotation: float = 0) -> None:
        """Writes text of `size` pixels, vertically centred at (x, y)."""
        self._axes.text(x, y, text, fontsize=size, color=INK, ha=align, va="center", rotation=rotation)

    def divider(self, x: float, top: float, bottom: float) -> None:
        """Draws a vertical dashed line."""
        self._axes.add_line(Line2D([x, x], [top, bottom], color=INK, linewidth=2, linestyle=(0, (4, 2))))

    def render(self) -> np.ndarray:
        """Returns the finished canvas: 8-bit RGB, shape [height, width, 3]."""
        height, width, _ = self._pixels.shape
        self._axes.imshow(self._pixels, extent=(0, width, height, 0), interpolation="nearest", aspect="auto", zorder=0)
        self._canvas.draw()
        return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()
