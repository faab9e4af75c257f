# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Ground truth in MOTChallenge format (Leal-Taixé et al. 2015, Milan et al. 2016)."""

from __future__ import annotations

import configparser
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyro_sqair.data.sequences import require

# Since MOT16 a line has 9 columns and the 8th is the class; in MOT15 it has 10, and columns 8 to 10 are a 3D position.
_COLUMNS_WITH_CLASS = 9
_LARGEST = 2**53  # numbers are read as float64, which has all integers up to here
_FARTHEST = 1e6  # pixels


class Tracks(NamedTuple):
    """n boxes of tracked objects, sorted by frame and id.

    Attributes:
        frames: frame of each box, from 0, int64 [n].
        ids: object of each box, int64 [n].
        boxes: left, top, width, height in pixels, float64 [n, 4].
        labels: class of the object, int64 [n]; 0 where the file has no classes.
        path: of the file.
        size: (width, height) in pixels of the annotated images; None if unknown.
        length: number of frames of the annotated video; None if unknown.
    """

    frames: NDArray[np.int64]
    ids: NDArray[np.int64]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    path: Path
    size: tuple[int, int] | None = None
    length: int | None = None


def read_mot(path: str | os.PathLike[str]) -> Tracks:
    """Reads a MOTChallenge ground truth: frame from 1, id, left, top, width, height, valid, class or position...

    Columns after the sixth are optional. In files with classes, lines with 0 in the 7th column are ignored, as in the
    benchmark. MOT15 uses this flag for people who are hard to see; they are kept. Image size and length are read from a
    `seqinfo.ini` beside the file, or beside the folder `gt` that contains it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line is malformed (the message gives its number), or there is no box.
    """
    path = Path(path)
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    found: dict[tuple[int, int], tuple[int, list[float]]] = {}  # (frame, id): line number and content
    for number, line in enumerate(lines, 1):
        row = _parse(line, f"line {number} of {path}") if line.strip() else []
        if not row or (len(row) == _COLUMNS_WITH_CLASS and row[6] == 0):
            continue
        key = int(row[0]) - 1, int(row[1])
        first, _ = found.setdefault(key, (number, row))
        got = f"frame {row[0]:.0f}, id {row[1]:.0f} in lines {first} and {number} of {path}"
        require(first == number, "one box for each object and frame", got)
    require(found, f"boxes in {path}", "none")
    keys = sorted(found)
    rows = [found[key][1] for key in keys]
    labels = np.array([int(row[7]) if len(row) == _COLUMNS_WITH_CLASS else 0 for row in rows])
    frames, ids = np.array(keys, dtype=np.int64).T
    return Tracks(frames, ids, np.array([row[2:6] for row in rows]), labels, path, *_sequence_info(path))


def scale_tracks(tracks: Tracks, num_frames: int, video_size: tuple[int, int], size: tuple[int, int]) -> Tracks:
    """Scales boxes to pixels of frames of `size` (width, height), and checks that they fit the video.

    Tracks whose own `size` is None are in pixels of the video.

    Raises:
        ValueError: if the length or the aspect ratio is not that of the video, or a box is outside the image.
    """
    last = int(tracks.frames[-1]) + 1
    expected = f"ground truth for the {num_frames} frames of the video"
    got = f"frames up to {last} and seqLength={tracks.length} in {tracks.path}"
    require(last <= num_frames and tracks.length in (None, num_frames), expected, got)
    width, height = tracks.size or video_size
    similar = abs(math.log(width * video_size[1] / (height * video_size[0]))) <= 0.02  # sizes of videos are rounded
    expected = f"ground truth on images of the video's aspect ratio, {video_size[0]}x{video_size[1]}"
    require(similar, expected, f"{width}x{height}: {tracks.path}")
    low, high = tracks.boxes[:, :2], tracks.boxes[:, :2] + tracks.boxes[:, 2:]
    outside = np.flatnonzero(((low >= (width, height)) | (high <= 0)).any(-1))
    if len(outside):
        frame, identity, box = (field[outside[0]].tolist() for field in tracks[:3])
        raise ValueError(
            f"expected every box to touch the image of {width}x{height} px, got {len(outside)} outside, the first in "
            f"frame {frame + 1}, id {identity}: {box} in {tracks.path}; for boxes on images of another size, set "
            "ground_truth_size=(width, height) (--ground-truth-size WIDTH HEIGHT)"
        )
    factor = np.array([size[0] / width, size[1] / height] * 2)
    return tracks._replace(boxes=tracks.boxes * factor, size=size)


def _parse(line: str, where: str) -> list[float]:
    try:
        row = [float(cell) for cell in line.split(",")]
    except ValueError:
        raise ValueError(f"expected comma-separated numbers, got {line[:80]!r} in {where}") from None
    if len(row) < 6:
        expected = "at least 6 numbers (frame, id, left, top, width, height)"
    elif not all(map(math.isfinite, row)):
        expected = "finite numbers"
    elif not (_is_integer(row[0], 1) and _is_integer(row[1], 0)):
        expected = "an integer frame from 1 and an integer id from 0, both up to 2^53"
    elif min(row[4:6]) <= 0 or max(map(abs, row[2:6])) > _FARTHEST:
        expected = f"a box of positive width and height, with numbers up to {_FARTHEST:,.0f} pixels"
    elif len(row) == _COLUMNS_WITH_CLASS and not _is_integer(row[7], -1):
        expected = "an integer class from -1 to 2^53"
    else:
        return row
    raise ValueError(f"expected {expected}, got {line[:80]!r} in {where}")


def _is_integer(value: float, least: int) -> bool:
    return value == int(value) and least <= value <= _LARGEST


def _sequence_info(path: Path) -> tuple[tuple[int, int] | None, int | None]:
    """Image size and number of frames from `seqinfo.ini`; None if unknown."""
    folders = [path.parent.parent, path.parent] if path.parent.name == "gt" else [path.parent]
    parser = configparser.ConfigParser()
    try:
        if not parser.read([folder / "seqinfo.ini" for folder in folders], encoding="utf-8"):
            return None, None
        width, height, length = (parser["Sequence"].getint(name) for name in ("imWidth", "imHeight", "seqLength"))
        if min(width or 0, height or 0, length or 0) < 0:
            raise ValueError(f"{width}, {height} and {length}")
    except (configparser.Error, KeyError, ValueError) as error:
        raise ValueError(
            "expected imWidth, imHeight and seqLength under [Sequence] in seqinfo.ini, none negative, got "
            f"{error} for {path}"
        ) from error
    return (width, height) if width and height else None, length
