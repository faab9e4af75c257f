# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Ground truth in the format of MOTChallenge (Leal-Taixé et al. 2015, Milan et al. 2016)."""

from __future__ import annotations

import configparser
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Since MOT16 a line has 9 columns and the 8th is the class; in MOT15 it has 10, and columns 8 to 10 are a place.
_COLUMNS_WITH_CLASS = 9
# Width / height of the ground truth's images may differ from the video's by this share: sizes are rounded.
_ASPECT_TOLERANCE = 0.02


class Tracks(NamedTuple):
    """Boxes of many objects over time, n in all, in the order of frames and then ids.

    Attributes:
        frames: the frame of each, from 0, int64 [n].
        ids: the object it belongs to, int64 [n].
        boxes: left, top, width, height in pixels, float64 [n, 4].
        labels: the class of the object, int64 [n]; 0 where the file has none.
        path: of the file.
        size: (width, height) in pixels of the images that the boxes were drawn on; None if unknown.
        length: frames in the video they were drawn on; None if unknown.
    """

    frames: NDArray[np.int64]
    ids: NDArray[np.int64]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    path: Path
    size: tuple[int, int] | None = None
    length: int | None = None


def read_mot(path: str | os.PathLike[str]) -> Tracks:
    """Reads a MOTChallenge ground truth: frame from 1, id, left, top, width, height, valid, class or place...

    Where there are classes, lines whose 7th column is 0 are left out, as the benchmark does: vehicles, reflections,
    people who never move. MOT15 marks people like that whom it does not score because they are hard to see; they
    are there, and move, and are kept.

    If a `seqinfo.ini` stands beside the file, or beside the folder `gt` that it is in, it tells the size of the images
    and the length of the video.

    Args:
        path: the text file, comma-separated; the columns after the sixth may be missing.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: names the line that is wrong, or says that there is no box.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected a MOTChallenge ground truth, found no file at {path}")
    found: dict[tuple[int, int], tuple[int, list[float]]] = {}  # (frame, id): label and box
    lines: dict[tuple[int, int], int] = {}
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"expected a text file of comma-separated numbers, got {path}") from error
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        row = _parsed(line, f"line {number} of {path}")
        has_class = len(row) == _COLUMNS_WITH_CLASS
        if has_class and row[6] == 0:
            continue
        key = int(row[0]) - 1, int(row[1])
        if key in found:
            raise ValueError(
                f"expected one box for each object and frame, got frame {key[0] + 1}, id {key[1]} in lines "
                f"{lines[key]} and {number} of {path}"
            )
        found[key] = int(row[7]) if has_class else 0, row[2:6]
        lines[key] = number
    if not found:
        raise ValueError(f"expected boxes in {path}, got none")
    keys = sorted(found)
    size, length = _sequence_info(path)
    return Tracks(
        frames=np.array([frame for frame, _ in keys], dtype=np.int64),
        ids=np.array([identity for _, identity in keys], dtype=np.int64),
        boxes=np.array([found[key][1] for key in keys], dtype=np.float64),
        labels=np.array([found[key][0] for key in keys], dtype=np.int64),
        path=path,
        size=size,
        length=length,
    )


def scale_tracks(tracks: Tracks, num_frames: int, video_size: tuple[int, int], size: tuple[int, int]) -> Tracks:
    """Boxes in pixels of frames scaled to `size`, once they are found to fit the video.

    Args:
        tracks: with the size of the images they were drawn on; without, that is the video's.
        num_frames: in the video.
        video_size: its (width, height), pixels.
        size: (width, height) that its frames are scaled to.

    Raises:
        ValueError: if the ground truth is of a video of another length or aspect ratio, or a box is outside the image.
    """
    if tracks.length is not None and tracks.length != num_frames:
        raise ValueError(
            f"expected ground truth for the {num_frames} frames of the video, got seqLength={tracks.length} in the "
            f"seqinfo.ini of {tracks.path}"
        )
    if tracks.frames[-1] >= num_frames:
        raise ValueError(
            f"expected ground truth for frames 1 to {num_frames}, those of the video, got frame "
            f"{tracks.frames[-1] + 1} in {tracks.path}"
        )
    width, height = tracks.size or video_size
    if abs(math.log(width * video_size[1] / (height * video_size[0]))) > _ASPECT_TOLERANCE:
        raise ValueError(
            f"expected ground truth on images of the video's aspect ratio, {video_size[0]}x{video_size[1]}, got one "
            f"on {width}x{height}: {tracks.path}"
        )
    left, top, box_width, box_height = tracks.boxes.T
    outside = (left >= width) | (top >= height) | (left + box_width <= 0) | (top + box_height <= 0)
    if outside.any():
        first = int(outside.argmax())
        raise ValueError(
            f"expected every box to touch the image of {width}x{height} px, got {int(outside.sum())} outside, the "
            f"first in frame {tracks.frames[first] + 1}, id {tracks.ids[first]}: {tracks.boxes[first].tolist()} in "
            f"{tracks.path}; if they are pixels of images of another size, give ground_truth_size=(width, height) "
            "(--ground-truth-size WIDTH HEIGHT)"
        )
    factor = np.array([size[0] / width, size[1] / height] * 2)
    return tracks._replace(boxes=tracks.boxes * factor, size=size)


def _parsed(line: str, where: str) -> list[float]:
    try:
        row = [float(cell) for cell in line.split(",")]
    except ValueError:
        raise ValueError(f"expected comma-separated numbers, got {line[:80]!r} in {where}") from None
    if len(row) < 6:
        raise ValueError(
            f"expected at least 6 numbers (frame, id, left, top, width, height), got {len(row)}: {line[:80]!r} "
            f"in {where}"
        )
    if not all(math.isfinite(number) for number in row):
        raise ValueError(f"expected finite numbers, got {line[:80]!r} in {where}")
    if row[0] != int(row[0]) or row[0] < 1 or row[1] != int(row[1]) or row[1] < 0:
        raise ValueError(f"expected a whole frame from 1 and a whole id from 0, got {line[:80]!r} in {where}")
    if row[4] <= 0 or row[5] <= 0:
        raise ValueError(f"expected a box of positive width and height, got {row[4]:g} x {row[5]:g} in {where}")
    return row


def _sequence_info(path: Path) -> tuple[tuple[int, int] | None, int | None]:
    """The size of the images and the number of frames, from the file that MOTChallenge adds to each video."""
    folders = [path.parent, path.parent.parent] if path.parent.name == "gt" else [path.parent]
    for file in (folder / "seqinfo.ini" for folder in folders):
        if not file.is_file():
            continue
        parser = configparser.ConfigParser()
        try:
            parser.read(file, encoding="utf-8")
            section = parser["Sequence"]
            width, height, length = (section.getint(name) for name in ("imWidth", "imHeight", "seqLength"))
        except (configparser.Error, KeyError, ValueError) as error:
            raise ValueError(
                f"expected imWidth, imHeight and seqLength under [Sequence], got {error} in {file}"
            ) from error
        return (width, height) if width and height else None, length
    return None, None
