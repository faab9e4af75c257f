# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""A sheet of enlarged frames with boxes and words on it, exact to the pixel."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image

from pyro_sqair.viz.files import save_image
from pyro_sqair.viz.pictures import Outline

INK = "#404040"
EMPTY = "#EBEBEB"


class Mosaic:
    """A sheet measured in its own pixels from the top left, on which frames are placed `zoom` times enlarged.

    The frames are copied into an array without any resampling; matplotlib draws only what is over them.

    Args:
        width: of the sheet, in pixels.
        height: of the sheet, in pixels.
        zoom: pixels of the sheet per pixel of a frame.
    """

    def __init__(self, width: int, height: int, zoom: int) -> None:
        if min(width, height, zoom) < 1:
            raise ValueError(f"expected width, height and zoom of at least 1, got {width}, {height} and {zoom}")
        self.zoom = zoom
        self._sheet = np.full((height, width, 3), 255, dtype=np.uint8)
        # At 72 dots per inch a point is a pixel, in font sizes and line widths alike. The little that is
        # added keeps matplotlib's rounding down from losing a pixel.
        self._figure = Figure(figsize=((width + 0.01) / 72, (height + 0.01) / 72), dpi=72)
        self._canvas = FigureCanvasAgg(self._figure)
        self._axes = self._figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        self._axes.set_axis_off()

    def frame(self, picture: np.ndarray, left: int, top: int, outlines: Iterable[Outline] = ()) -> None:
        """Places a frame with its corner at (left, top), and boxes over it, cut off where they leave it.

        Args:
            picture: 8-bit colours, shape [H, W, 3].
            left: in pixels of the sheet.
            top: in pixels of the sheet.
            outlines: boxes in pixels of the frame.
        """
        enlarged = picture.repeat(self.zoom, 0).repeat(self.zoom, 1)
        height, width, _ = enlarged.shape
        self._sheet[top : top + height, left : left + width] = enlarged
        inside = Rectangle((left, top), width, height, transform=self._axes.transData)
        for outline in outlines:
            x, y, w, h = (self.zoom * side for side in outline.box)
            patch = Rectangle((left + x, top + y), w, h, fill=False, edgecolor=outline.color, linewidth=self.line)
            self._axes.add_patch(patch)
            patch.set_clip_path(inside)

    @property
    def line(self) -> float:
        """The width of a box's line: a pixel of the frame, but never too thin to see."""
        return max(2.0, self.zoom)

    def blank(self, left: int, top: int, size: tuple[int, int]) -> None:
        """Marks the place of a frame of that size (height and width) for which there is no picture."""
        color = (255 * np.array(to_rgb(EMPTY))).astype(np.uint8)
        self._sheet[top : top + self.zoom * size[0], left : left + self.zoom * size[1]] = color

    def text(self, words: str, x: float, y: float, size: float, *, align: str = "center", turned: bool = False) -> None:
        """Writes words centred in height on (x, y), `size` pixels high; if `turned`, from bottom to top."""
        angle = 90 if turned else 0
        self._axes.text(x, y, words, fontsize=size, color=INK, ha=align, va="center", rotation=angle)

    def divider(self, x: float, top: float, bottom: float) -> None:
        """Draws an upright dashed line."""
        self._axes.add_line(Line2D([x, x], [top, bottom], color=INK, linewidth=2, linestyle=(0, (4, 2))))

    def render(self) -> np.ndarray:
        """The sheet with all that is drawn on it: 8-bit colours, shape [height, width, 3]."""
        height, width, _ = self._sheet.shape
        self._axes.imshow(self._sheet, extent=(0, width, height, 0), interpolation="nearest", aspect="auto", zorder=0)
        self._canvas.draw()
        return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()

    def save(self, path: str | Path) -> None:
        """Writes the sheet as an image whose format follows from the suffix."""
        save_image(Image.fromarray(self.render()), path)
