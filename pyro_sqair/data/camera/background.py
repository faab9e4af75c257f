# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""What moves before a static camera: models of the background, and the mask of what differs from it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pyro_sqair.data.camera.video import import_opencv

Frame = NDArray[np.uint8]

# Rows of the image whose median is taken at a time: all sampled frames at once would need many times their size.
_BAND = 32
_FOREGROUND = 255  # what OpenCV's models write where something moves; they write 127 for its shadow


class Background(Protocol):
    """Tells what moves from what is always there.

    Attributes:
        adapts: whether it goes on learning from each frame, so that it must see all of them, in order.
    """

    adapts: bool

    def start(self, frames: Iterable[Frame]) -> None:
        """Makes ready for a pass over `frames`, from the first; the same frames lead to the same masks in each pass."""
        ...

    def mask(self, frame: Frame) -> NDArray[np.bool_]:
        """Where the frame shows something else than the background, bool [H, W]."""
        ...


class FrameSample:
    """Evenly spaced frames of a video whose length nobody knows yet, in bounded memory.

    Keeps every k-th frame; when there are too many, drops every other one and doubles k.

    Args:
        most: how many to keep at most; at the end there are between half of it and all of it.
    """

    def __init__(self, most: int) -> None:
        if most < 2:
            raise ValueError(f"expected room for at least 2 frames, got {most}")
        self.most = most
        self.frames: list[Frame] = []
        self._seen, self._every = 0, 1

    def add(self, frame: Frame) -> None:
        """Shows it the next frame of the video."""
        if self._seen % self._every == 0:
            if len(self.frames) == self.most:
                self.frames = self.frames[::2]
                self._every *= 2
            if self._seen % self._every == 0:
                self.frames.append(frame)
        self._seen += 1


class MedianBackground:
    """One image for the whole video: of each pixel and channel the median over time.

    It needs no warm-up and no one is absorbed by it who stands still for less than half of the time; but it takes the
    light to be constant. A pixel is foreground where some channel differs by more than
    `threshold + noise * (median absolute deviation of the pixel)`: leaves and ropes in the wind deviate often, and
    have to differ by more.

    Args:
        frames: of the video, evenly spaced, uint8 [H, W, 3] each; a hundred do.
        threshold: in levels of 255.
        noise: multiples of the median absolute deviation.
        blur: standard deviation, pixels, of the Gaussian that smooths the difference; 0 for none.

    Attributes:
        image: the background, uint8 [H, W, 3].
    """

    adapts = False

    def __init__(self, frames: list[Frame], threshold: float = 30.0, noise: float = 3.0, blur: float = 1.0) -> None:
        if not frames:
            raise ValueError("expected at least one frame to find the background in, got none")
        medians, deviations = [], []
        for top in range(0, frames[0].shape[0], _BAND):
            band = np.stack([frame[top : top + _BAND] for frame in frames])
            median = np.median(band, axis=0).round().astype(np.uint8)
            deviation = np.abs(band.astype(np.int16) - median)
            medians.append(median)
            deviations.append(np.median(deviation, axis=0).max(-1))
        self.image: Frame = np.concatenate(medians)
        self._limit = (threshold + noise * np.concatenate(deviations)).astype(np.float32)
        self._blur = blur

    def start(self, frames: Iterable[Frame]) -> None:
        """Nothing to do."""

    def mask(self, frame: Frame) -> NDArray[np.bool_]:
        """Where the frame differs from the background, bool [H, W]."""
        cv2 = import_opencv()
        blue, green, red = cv2.split(_smoothed(cv2.absdiff(frame, self.image), self._blur))
        return cv2.max(cv2.max(blue, green), red) > self._limit  # numpy's max over so short an axis is slow


class OnlineBackground:
    """OpenCV's MOG2 (Zivkovic 2004) or KNN (Zivkovic & van der Heijden 2006): follows the light as it changes.

    Each pass begins anew and learns from the first frames before it goes over the video; shadows are background.
    Whoever stands still is absorbed, and leaves a ghost on going away.

    Args:
        kind: which of the two.
        warm_up: frames to learn from before the first.
        blur: standard deviation, pixels, of the Gaussian that smooths each frame; 0 for none.
    """

    adapts = True

    def __init__(self, kind: Literal["mog2", "knn"], warm_up: int = 500, blur: float = 1.0) -> None:
        if kind not in ("mog2", "knn"):
            raise ValueError(f"expected 'mog2' or 'knn', got {kind!r}")
        self._kind, self._warm_up, self._blur = kind, warm_up, blur
        self._make()

    def start(self, frames: Iterable[Frame]) -> None:
        """Forgets everything, and learns from the first frames."""
        self._make()
        for frame in islice(frames, self._warm_up):
            self._model.apply(_smoothed(frame, self._blur))

    def mask(self, frame: Frame) -> NDArray[np.bool_]:
        """Where the frame differs from the background as it is now, bool [H, W]; learns from the frame."""
        return self._model.apply(_smoothed(frame, self._blur)) == _FOREGROUND

    def _make(self) -> None:
        cv2 = import_opencv()
        # KNN draws which samples to replace from OpenCV's own generator: without this, no two passes are alike.
        cv2.setRNGSeed(0)
        make = {"mog2": cv2.createBackgroundSubtractorMOG2, "knn": cv2.createBackgroundSubtractorKNN}
        self._model = make[self._kind](detectShadows=True)


def _smoothed(image: Frame, blur: float) -> Frame:
    return import_opencv().GaussianBlur(image, (0, 0), blur) if blur > 0 else image
