# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""From a frame and a model of its background to people bright on black."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyro_sqair.data.camera.background import Background, Frame
from pyro_sqair.data.camera.video import import_opencv

# The mask is found at up to this many times the size of the result, which makes its edges smooth. More costs time
# on high-resolution video, and changes little.
_SUPERSAMPLING = 2


class Moving(NamedTuple):
    """What moves in a frame.

    Attributes:
        picture: bright on black, uint8 [H, W, C].
        pieces: bounding boxes of its connected pieces: left, top, width, height, pixels, float64 [n, 4].
    """

    picture: Frame
    pieces: NDArray[np.float64]


class Foreground:
    """Cuts what moves out of frames, and scales it.

    Args:
        video_size: (width, height) of the frames, pixels.
        size: (width, height) of the pictures.
        min_area: pieces of fewer pixels of the picture are dropped.
        contrast: see `bright_on_black`.
        colour: whether pictures are red, green, blue; else grey.
    """

    def __init__(
        self, video_size: tuple[int, int], size: tuple[int, int], min_area: float, contrast: float, colour: bool
    ) -> None:
        self.size = size
        self.working_size = tuple(min(_SUPERSAMPLING * to, of) for to, of in zip(size, video_size, strict=True))
        self._factor = np.array(size) / self.working_size  # (x, y), pixels of the picture for one of the mask
        self._min_area = min_area / self._factor.prod()
        self._contrast, self._colour = contrast, colour

    @property
    def scale(self) -> float:
        """Pixels of the mask for one of the picture, along a side."""
        return float(self._factor.prod() ** -0.5)

    def shrink(self, frame: Frame) -> Frame:
        """The frame at the size at which the background is modelled."""
        return _resized(frame, self.working_size)

    def cut(self, frame: Frame, background: Background) -> Moving:
        """What moves in a frame that `shrink` has made."""
        mask, pieces = clean_mask(background.mask(frame), self.scale, self._min_area)
        picture = bright_on_black(frame, mask, self._contrast, self._colour)
        picture = _resized(picture, self.size).reshape(self.size[1], self.size[0], -1)
        return Moving(picture, pieces * np.tile(self._factor, 2))


def clean_mask(mask: NDArray[np.bool_], scale: float, min_area: float) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Takes specks and lines out of a mask, closes gaps, and finds the pieces it consists of.

    Args:
        mask: where something moves, bool [H, W].
        scale: pixels of the mask for one pixel of the frames to be made; the morphology grows with it.
        min_area: smaller pieces are dropped; pixels of the mask.

    Returns:
        The mask, and the bounding boxes of its pieces: left, top, width, height, pixels of the mask, [n, 4].
    """
    cv2 = import_opencv()
    pixels = mask.astype(np.uint8)
    # At scale 2, 3 px against specks and 5 px against gaps; at scale 1, nothing against specks, or thin limbs go too.
    for operation, reach in ((cv2.MORPH_OPEN, int(scale / 2)), (cv2.MORPH_CLOSE, round(scale))):
        element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
        pixels = cv2.morphologyEx(pixels, operation, element)
    _, pieces, table, _ = cv2.connectedComponentsWithStats(pixels, connectivity=8)
    kept = table[:, cv2.CC_STAT_AREA] >= min_area
    kept[0] = False  # piece 0 is the background
    return kept[pieces], table[kept, :4].astype(np.float64)


def bright_on_black(frame: Frame, mask: NDArray[np.bool_], contrast: float, colour: bool) -> Frame:
    """The negative of what moves, on black: "invert colors and subtract backgrounds".

    Kosiorek et al. 2018, Appendix E. A pixel of value v in the mask becomes 255 - contrast * v, any other 0.

    Args:
        frame: blue, green, red, uint8 [H, W, 3].
        mask: where something moves, bool [H, W].
        contrast: 1 is the full negative, in which white clothes are as black as the background; 0 a silhouette.
        colour: whether to keep the colours.

    Returns:
        uint8 [H, W, C]: grey, or red, green, blue.
    """
    cv2 = import_opencv()
    values = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if colour else cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)[..., None]
    negative = (255 - np.rint(np.arange(256) * contrast)).astype(np.uint8)
    return np.where(mask[..., None], negative[values], 0).astype(np.uint8)


def _resized(image: Frame, size: tuple[int, ...]) -> Frame:
    cv2 = import_opencv()
    return image if image.shape[1::-1] == size else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
