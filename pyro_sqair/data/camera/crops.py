# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Which squares of a video become sequences, and what the ground truth says in them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyro_sqair.data.camera.mot import Tracks
from pyro_sqair.data.camera.video_config import VideoConfig

# An object counts where at least this share of its box is in the crop. What of it is lit is then about the same share:
# 35 pixels of a person on PETS 2009, which any detector would see. At a half, blobs of 80 lit pixels would not count.
MIN_VISIBLE = 0.25

# How far a tracked crop is from being centred on its object, at most, as a share of its side.
_JITTER = 0.25
# There are taken to be no more crops after so many draws for each that is wanted; or after so many in a row that
# found none, besides so many of each frame to begin at.
_DRAWS = 200
_FRUITLESS = 10_000
_FRUITLESS_ROUNDS = 20


class Crop(NamedTuple):
    """A square of a stretch of video.

    Attributes:
        start: its first frame.
        left: of the square, pixels.
        top: of the square, pixels.
    """

    start: int
    left: int
    top: int


class CropTracks(NamedTuple):
    """The objects of one crop, in slots in the order in which they first count; T frames, m objects.

    Attributes:
        present: whether the object counts, bool [T, m].
        boxes: left, top, width, height in pixels of the crop, zeros where it does not, float32 [T, m, 4].
        ids: as in the ground truth, -1 where it does not, int64 [T, m].
        labels: the class of the object, int64 [m].
    """

    present: NDArray[np.bool_]
    boxes: NDArray[np.float32]
    ids: NDArray[np.int64]
    labels: NDArray[np.int64]


def visible_share(boxes: NDArray[np.float64], left: float, top: float, side: float) -> NDArray[np.float64]:
    """The share of each box's area that is within a square.

    Args:
        boxes: left, top, width, height, [n, 4].
        left: of the square.
        top: of the square.
        side: of the square.

    Returns:
        Numbers in [0, 1], [n].
    """
    corner = np.array([left, top])
    low, extent = boxes[:, :2], boxes[:, 2:]
    overlap = np.minimum(low + extent, corner + side) - np.maximum(low, corner)
    return (overlap.clip(min=0.0) / extent).prod(-1)


def plan_crops(
    boxes: list[NDArray[np.float64]],
    frames: range,
    wanted: int,
    size: tuple[int, int],
    config: VideoConfig,
    rng: np.random.Generator,
) -> list[Crop]:
    """Draws crops that show as many objects as the configuration asks for.

    The frames at which sequences may begin take turns, in random order, until there are enough crops. No crop is drawn
    twice.

    Args:
        boxes: of the objects in each frame of the video: left, top, width, height, pixels, [n, 4].
        frames: those that sequences may be made of.
        wanted: number of crops.
        size: (width, height) of a frame.
        config: says what crops there may be.
        rng: draws them.

    Returns:
        The crops in the order of their first frames; fewer than wanted if no more were found.
    """
    starts = range(frames.start, frames.stop - config.span + 1, config.stride)
    draw = _tracked if config.crops == "tracked" else _random
    chosen: set[Crop] = set()
    left, fruitless = _DRAWS * wanted, 0
    while len(chosen) < wanted and left > 0 and fruitless < _FRUITLESS + _FRUITLESS_ROUNDS * len(starts):
        for start in rng.permutation(starts).tolist()[: min(left, len(starts))]:
            shown = [boxes[t] for t in range(start, start + config.span, config.frame_step)]
            crop = draw(start, shown, size, config, rng)
            left, fruitless = left - 1, fruitless + 1
            if crop is not None and crop not in chosen and _accepted(crop, shown, config):
                chosen.add(crop)
                fruitless = 0
                if len(chosen) == wanted:
                    break
    return sorted(chosen)


def crop_tracks(tracks: Tracks, crop: Crop, config: VideoConfig) -> CropTracks:
    """What the ground truth says in a crop.

    Args:
        tracks: in pixels of the frame.
        crop: where and when to look.
        config: the side of the crop and its frames.
    """
    rows = [box_rows(tracks, t) for t in range(crop.start, crop.start + config.span, config.frame_step)]
    counting = [row[visible_share(tracks.boxes[row], crop.left, crop.top, config.crop) >= MIN_VISIBLE] for row in rows]
    everyone = np.concatenate(counting)
    _, first = np.unique(tracks.ids[everyone], return_index=True)
    slots = {int(tracks.ids[row]): slot for slot, row in enumerate(everyone[np.sort(first)])}

    shape = len(rows), len(slots)
    found = CropTracks(
        np.zeros(shape, np.bool_),
        np.zeros((*shape, 4), np.float32),
        np.full(shape, -1, np.int64),
        np.full(len(slots), -1, np.int64),
    )
    corner = np.array([crop.left, crop.top, 0, 0])
    for t, row in enumerate(counting):
        slot = [slots[identity] for identity in tracks.ids[row].tolist()]
        found.present[t, slot] = True
        found.boxes[t, slot] = tracks.boxes[row] - corner
        found.ids[t, slot] = tracks.ids[row]
        found.labels[slot] = tracks.labels[row]
    return found


def box_rows(tracks: Tracks, frame: int) -> NDArray[np.int64]:
    """Which of the tracks' boxes are of this frame, [n]."""
    begin, end = np.searchsorted(tracks.frames, [frame, frame + 1])
    return np.arange(begin, end)


def _random(
    start: int, shown: list[NDArray[np.float64]], size: tuple[int, int], config: VideoConfig, rng: np.random.Generator
) -> Crop:
    """A crop anywhere in the frame."""
    left, top = (int(rng.integers(side - config.crop + 1)) for side in size)
    return Crop(start, left, top)


def _tracked(
    start: int, shown: list[NDArray[np.float64]], size: tuple[int, int], config: VideoConfig, rng: np.random.Generator
) -> Crop | None:
    """A crop about centred on something that is there half-way through the sequence; None if nothing is.

    It stands still, because a moving window would make of everybody's motion that relative to one, and cut from what is
    behind him what the model could never predict.
    """
    boxes = shown[len(shown) // 2]
    if len(boxes) == 0:
        return None
    box = boxes[rng.integers(len(boxes))]
    middle = box[:2] + box[2:] / 2
    corner = middle - config.crop * (0.5 + rng.uniform(-_JITTER, _JITTER, 2))
    left, top = (int(x) for x in np.clip(corner.round(), 0, np.array(size) - config.crop))
    return Crop(start, left, top)


def _accepted(crop: Crop, shown: list[NDArray[np.float64]], config: VideoConfig) -> bool:
    visible = visible_share(np.concatenate(shown), crop.left, crop.top, config.crop) >= MIN_VISIBLE
    frame = np.repeat(np.arange(len(shown)), [len(boxes) for boxes in shown])
    most = np.bincount(frame[visible], minlength=1).max()
    return bool(most >= config.min_objects and (config.max_objects is None or most <= config.max_objects))
