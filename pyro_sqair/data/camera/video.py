# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Frames of a recording, one at a time: of a video file, or of a folder of images."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

# A file whose header promises more than this share above what can be decoded was probably cut short. Headers of
# sound files are off by a few frames, too.
_CUT_SHORT = 0.05


class Recording(Protocol):
    """A static camera's frames, decoded anew on every iteration, so that none needs to stay in memory.

    Attributes:
        path: where it is.
        size: (width, height), pixels.
        fps: frames a second; None where nobody knows.
    """

    path: Path
    size: tuple[int, int]
    fps: float | None

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Every frame in order: blue, green, red, uint8 [H, W, 3]."""
        ...


def open_recording(path: str | os.PathLike[str]) -> Recording:
    """Opens a video file, or a folder of images that are its frames in the natural order of their names.

    Raises:
        FileNotFoundError: if nothing is there.
        ValueError: if the file is no video that OpenCV can read, or the folder holds no image.
        ImportError: if OpenCV is missing.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"expected a video or a folder of images, found nothing at {path}")
    return ImageFolder(path) if path.is_dir() else VideoFile(path)


class VideoFile:
    """The frames of a video that OpenCV can decode.

    Args:
        path: the file.

    Raises:
        ValueError: if it has no frame that can be decoded.
        ImportError: if OpenCV is missing.
    """

    def __init__(self, path: Path) -> None:
        cv2 = import_opencv()
        self.path = path
        first = next(iter(_decoded(path)), None)
        if first is None:
            raise ValueError(f"expected a video that OpenCV can read, got {path}: it is no video, or is damaged")
        self.size = (first.shape[1], first.shape[0])
        capture = cv2.VideoCapture(str(path))
        fps = capture.get(cv2.CAP_PROP_FPS)
        self._announced = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        capture.release()
        self.fps = float(fps) if 0.0 < fps < float("inf") else None

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Every frame that can be decoded, [H, W, 3] in BGR; warns if they are far fewer than the file says."""
        number = 0
        for number, frame in enumerate(_decoded(self.path), 1):
            _check_size(frame, self.size, f"frame {number} of {self.path}")
            yield frame
        if number < (1.0 - _CUT_SHORT) * self._announced:
            warnings.warn(
                f"{self.path} says that it has {self._announced:.0f} frames, but only {number} could be decoded: "
                "is it cut short?",
                stacklevel=2,
            )


class ImageFolder:
    """The frames of a folder of images of one size; other files in it are left alone.

    Args:
        path: the folder.

    Raises:
        ValueError: if it holds no image, or the first one cannot be read.
        ImportError: if OpenCV is missing.
    """

    fps: float | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        names = (name for name in path.iterdir() if name.suffix.lower() in IMAGE_SUFFIXES)
        # A hidden file is a thumbnail or what some other system left behind, not a frame.
        self.files = sorted((name for name in names if not name.name.startswith(".")), key=_natural)
        if not self.files:
            raise ValueError(
                f"expected a folder with images ({', '.join(sorted(IMAGE_SUFFIXES))}), found none in {path}"
            )
        height, width, _ = _read_image(self.files[0]).shape
        self.size = (width, height)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Every image, [H, W, 3] in BGR.

        Raises:
            ValueError: if one cannot be read, or has another size than the first.
        """
        for file in self.files:
            frame = _read_image(file)
            _check_size(frame, self.size, f"{file}, as in {self.files[0].name}")
            yield frame


def import_opencv() -> ModuleType:
    """The module `cv2`, imported only where it is needed.

    Raises:
        ImportError: says how to install it.
    """
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            "reading video needs OpenCV (cv2), which is not installed: pip install 'pyro_sqair[video]'"
        ) from error
    return cv2


def _decoded(path: Path) -> Iterator[NDArray[np.uint8]]:
    capture = import_opencv().VideoCapture(str(path))
    try:
        while True:
            found, frame = capture.read()
            if not found:
                return
            yield frame
    finally:
        capture.release()


def _read_image(path: Path) -> NDArray[np.uint8]:
    cv2 = import_opencv()
    # Not cv2.imread, which on some systems cannot open a path that is not ASCII.
    data = np.frombuffer(path.read_bytes(), np.uint8)
    frame = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if frame is None:
        raise ValueError(f"expected an image that OpenCV can read, got {path}: it is no image, or is damaged")
    return frame


def _check_size(frame: NDArray[np.uint8], size: tuple[int, int], where: str) -> None:
    height, width, _ = frame.shape
    if (width, height) != size:
        raise ValueError(f"expected frames of one size, {size[0]}x{size[1]}, got {width}x{height} at {where}")


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """A key that sorts frame_2 before frame_10."""
    parts = re.split(r"([0-9]+)", path.name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
