# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Frames of a video: decoding, and background subtraction. The only module that needs OpenCV."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_sqair.data.camera.video_config import VideoConfig

with suppress(ImportError):  # optional; `convert_video` raises an error if it is missing
    import cv2

Image = NDArray[Any]  # uint8, which OpenCV's type stubs do not state
Mask = NDArray[np.bool_]
Boxes = NDArray[np.float64]
Subtractor = Callable[[Image], Mask]  # finds the foreground of a frame

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_SAMPLES = 128  # maximum number of frames from which the median is computed; even
_WARM_UP = 500  # frames from which MOG2 and KNN learn before they process the first; OpenCV's default history


def read_frames(path: Path) -> Iterator[Image]:
    """Decodes a video file or a folder of images: blue, green, red, uint8 [H, W, 3]. Warns if a file is truncated.

    Raises:
        FileNotFoundError: if the path does not exist.
        ValueError: if it is not a video or has no image, an image is unreadable, or frames differ in size.
    """
    if not path.exists():
        raise FileNotFoundError(f"expected a video or a folder of images, found nothing at {path}")
    size = None
    for name, frame in _read_folder(path) if path.is_dir() else _read_file(path):
        height, width, _ = frame.shape
        size = size or f"{width}x{height}"
        if f"{width}x{height}" != size:
            raise ValueError(f"expected frames of one size, {size}, got {width}x{height} at {name}")
        yield frame


@dataclass(frozen=True)
class Recording:
    """The frames of a video, scaled to `size` (width, height); each iteration decodes them again."""

    path: Path
    size: tuple[int, int]

    def __iter__(self) -> Iterator[Image]:
        return (_resized(frame, self.size) for frame in read_frames(self.path))


def sample_frames(frames: Iterable[Image]) -> tuple[Image, int]:
    """Evenly spaced frames, at most 128, uint8 [n, H, W, 3], and the number of all frames."""
    sample: list[Image] = []
    step, length = 1, 0
    for length, frame in enumerate(frames, 1):
        if (length - 1) % step == 0:
            if len(sample) == _SAMPLES:
                sample, step = sample[::2], 2 * step
            sample.append(frame)
    return np.stack(sample), length


def extract_foreground(
    frames: Iterable[Image], sample: Image, size: tuple[int, int], config: VideoConfig
) -> Iterator[tuple[Image, Boxes]]:
    """The foreground of each frame of a video: "invert colors and subtract backgrounds" (Kosiorek et al. 2018, App. E).

    Args:
        frames: blue, green, red, uint8 [H, W, 3]; the adaptive models iterate over them twice. Twice the size of the
            pictures gives smooth edges.
        sample: some of them, uint8 [n, H, W, 3], for the median.
        size: (width, height) of the pictures.
        config: background model, thresholds and appearance.

    Yields:
        A picture, bright on black, uint8 [height, width, C], and the bounding boxes of its connected components: left,
        top, width, height in pixels, [n, 4].
    """
    negative = (255 - np.rint(np.arange(256) * config.contrast)).astype(np.uint8)
    conversion = cv2.COLOR_BGR2RGB if config.colour else cv2.COLOR_BGR2GRAY
    factor = np.array(size) / sample.shape[2:0:-1]  # (x, y), picture pixels per frame pixel
    scale = float(factor.prod() ** -0.5)
    blur = config.blur * scale
    median = config.background == "median"
    find = median_subtractor(sample, config, blur) if median else adaptive_subtractor(frames, config, blur)
    for frame in frames:
        cleaned, boxes = clean_mask(find(frame), scale, config.min_area * scale**2)
        picture = negative[cv2.cvtColor(frame, conversion)]
        picture[~cleaned] = 0
        yield _resized(picture, size).reshape(size[1], size[0], -1), boxes * np.tile(factor, 2)


def median_subtractor(sample: Image, config: VideoConfig, blur: float) -> Subtractor:
    """Compares frames with the median of a sample of them; the light must be constant.

    A pixel is foreground if the blurred difference of a channel exceeds `threshold + noise * (median absolute deviation
    of the pixel)`. Objects that stand still for less than half of the video are foreground.
    """
    background, deviation = np.empty_like(sample[0]), np.empty(sample.shape[1:3])
    for row in range(len(background)):  # row by row, because np.median makes several copies
        background[row] = np.median(sample[:, row], axis=0).round()
        difference = np.abs(sample[:, row].astype(np.int16) - background[row])
        deviation[row] = np.median(difference, axis=0).max(-1)
    limit = (config.threshold + config.noise * deviation).astype(np.float32)

    def subtract(frame: Image) -> Mask:
        blue, green, red = cv2.split(_blurred(cv2.absdiff(frame, background), blur))
        return cv2.max(cv2.max(blue, green), red) > limit  # np.max is slow over an axis of length 3

    return subtract


def adaptive_subtractor(frames: Iterable[Image], config: VideoConfig, blur: float) -> Subtractor:
    """OpenCV's MOG2 (Zivkovic 2004) or KNN (Zivkovic & van der Heijden 2006), without shadows, for frames in order.

    The model adapts to changing light. Objects that stand still become background.
    """
    cv2.setRNGSeed(0)  # KNN replaces samples at random
    model = {"mog2": cv2.createBackgroundSubtractorMOG2, "knn": cv2.createBackgroundSubtractorKNN}[config.background]()
    for frame in islice(frames, _WARM_UP):
        model.apply(_blurred(frame, blur))
    return lambda frame: model.apply(_blurred(frame, blur)) == 255  # shadows are 127


def clean_mask(mask: Mask, scale: float, min_area: float) -> tuple[Mask, Boxes]:
    """Removes specks and thin lines from a mask [H, W], closes gaps, and finds connected components and their boxes.

    The structuring elements grow with `scale`, mask pixels per picture pixel along a side. Components smaller than
    `min_area` mask pixels are removed.
    """
    pixels: Image = mask.astype(np.uint8)
    # At scale 2, opening with 3 px and closing with 5 px; at scale 1 no opening, which would remove thin limbs.
    for operation, radius in ((cv2.MORPH_OPEN, int(scale / 2)), (cv2.MORPH_CLOSE, round(scale))):
        element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        pixels = cv2.morphologyEx(pixels, operation, element)
    _, components, statistics, _ = cv2.connectedComponentsWithStats(pixels, connectivity=8)
    kept = statistics[:, cv2.CC_STAT_AREA] >= min_area
    kept[0] = False  # component 0 is the background
    return kept[components], statistics[kept, :4].astype(np.float64)


def _resized(image: Image, size: tuple[int, int]) -> Image:
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # averaged over areas


def _blurred(image: Image, deviation: float) -> Image:
    return cv2.GaussianBlur(image, (0, 0), deviation) if deviation > 0 else image


def _read_file(path: Path) -> Iterator[tuple[str, Image]]:
    capture, number = cv2.VideoCapture(str(path)), 0
    if capture.get(cv2.CAP_PROP_FOURCC) == cv2.VideoWriter.fourcc(*"ansi"):  # FFmpeg draws text as pictures
        raise ValueError(f"expected a video or a folder of images, got a text file: {path}")
    while (result := capture.read())[0]:
        number += 1
        yield f"frame {number} of {path}", result[1]
    if number == 0:
        raise ValueError(f"expected a video that OpenCV can read, got {path}, which is not a video or is damaged")
    announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    if number < 0.95 * announced:  # complete files, too, can lack a few frames
        warnings.warn(f"expected {announced} frames in {path}, decoded {number}: it may be truncated", stacklevel=2)


def _read_folder(path: Path) -> Iterator[tuple[str, Image]]:
    files = [file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.name[0] != "."]
    if not files:
        raise ValueError(f"expected a folder with images ({', '.join(IMAGE_SUFFIXES)}), found none in {path}")
    # Natural order: frame_2 before frame_10.
    for file in sorted(files, key=lambda file: [int(s) if s.isdecimal() else s for s in re.split(r"(\d+)", file.name)]):
        data = np.fromfile(file, np.uint8)  # cv2.imread cannot open non-ASCII paths on some systems
        try:
            frame = cv2.imdecode(data, cv2.IMREAD_COLOR)
        except cv2.error:  # no bytes, or more pixels than OpenCV reads
            frame = None
        if frame is None:
            raise ValueError(f"expected an image that OpenCV can read, got {file}, which is not an image or is damaged")
        yield str(file), frame
