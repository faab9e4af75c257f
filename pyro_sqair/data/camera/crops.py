# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Crops of a video: where they are drawn, and the sequences in them."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_sqair.data.camera.frames import Image
from pyro_sqair.data.camera.mot import Tracks
from pyro_sqair.data.camera.video_config import Part, VideoConfig
from pyro_sqair.data.sequences import Sequences, from_uint8

# An object is present in a crop if at least this share of its box is inside. About the same share of its pixels is
# then visible: 35 px of a person on PETS 2009. With a half, blobs of 80 bright pixels would have no object.
MIN_VISIBLE = 0.25
_JITTER = 0.25  # maximum distance of a tracked crop from being centred on its object, as a share of its side
# The search ends after a number of draws: a constant, plus terms for each possible first frame and each crop found.
_DRAWS, _DRAWS_PER_START, _DRAWS_PER_CROP = 10_000, 20, 200


class Crop(NamedTuple):
    """First frame and top left corner, pixels, of a square that is cut from a video."""

    start: int
    left: int
    top: int


def plan_crops(objects: Tracks, part: Part, size: tuple[int, int], config: VideoConfig, seed: list[int]) -> list[Crop]:
    """Draws different crops with as many objects as the configuration asks for, sorted by first frame.

    The frames at which a crop can start take turns in random order. If there are fewer crops than `part` asks for, a
    warning gives their number.

    Args:
        objects: their boxes, in pixels of the scaled frames.
        part: frames and number of the crops.
        size: (width, height) of a scaled frame.
        config: which crops are possible.
        seed: of the draws.

    Raises:
        ValueError: if there is none.
    """
    rng = np.random.default_rng(seed)
    starts = range(part.frames.start, part.frames.stop - config.span + 1, config.stride)
    maximum = math.inf if config.max_objects is None else config.max_objects
    chosen: set[Crop] = set()
    draws = 0
    while draws < _DRAWS + _DRAWS_PER_START * len(starts) + _DRAWS_PER_CROP * len(chosen):
        for start in rng.permutation(starts).tolist():
            crop = _draw(start, objects, size, config, rng)
            if crop is not None and crop not in chosen:
                frames = objects.frames[present_rows(objects, crop, config)]
                if config.min_objects <= np.bincount(frames - start, minlength=1).max() <= maximum:
                    chosen.add(crop)
                    if len(chosen) == part.sequences:
                        return sorted(chosen)
        draws += len(starts)
    wanted = f"{part.sequences} {config.crops} crops with {config.min_objects} to {maximum} objects"
    where = f"frames {part.frames.start + 1} to {part.frames.stop}, for {part.name}"
    message = f"expected {wanted} in {where}, found only {len(chosen)}"
    if not chosen:
        raise ValueError(message)
    warnings.warn(message, stacklevel=3)
    return sorted(chosen)


def present_rows(objects: Tracks, crop: Crop, config: VideoConfig) -> NDArray[np.int64]:
    """Indices of the boxes of which at least the share `MIN_VISIBLE` is in a crop, ordered by frame."""
    rows = np.arange(*np.searchsorted(objects.frames, [crop.start, crop.start + config.span]))
    rows = rows[(objects.frames[rows] - crop.start) % config.frame_step == 0]
    low, extent = objects.boxes[rows, :2], objects.boxes[rows, 2:]
    overlap = np.minimum(low + extent, np.add(crop[1:], config.crop)) - np.maximum(low, crop[1:])
    return rows[(overlap.clip(min=0.0) / extent).prod(-1) >= MIN_VISIBLE]


def cut_crops(
    pictures: Image, crops: list[Crop], tracks: Tracks | None, max_objects: int, config: VideoConfig
) -> Sequences:
    """Cuts crops from a video and from its ground truth; objects get slots in the order in which they appear.

    Args:
        pictures: uint8 [T, H, W, C].
        crops: B of them.
        tracks: ground truth in pixels of the pictures. If None, `count` is -1 and no object is present.
        max_objects: M.
        config: side of the crops and length of the sequences.
    """
    shape = config.num_frames, len(crops), max_objects
    pixels = np.empty((*shape[:2], config.crop, config.crop, pictures.shape[-1]), np.uint8)
    present, ids = np.zeros(shape, np.bool_), np.full(shape, -1, np.int64)
    boxes, labels = np.zeros((*shape, 4), np.float32), np.full(shape[1:], -1, np.int64)
    for b, crop in enumerate(crops):
        start, left, top = crop
        square = pictures[:, top : top + config.crop, left : left + config.crop]
        pixels[:, b] = square[start : start + config.span : config.frame_step]
        if tracks is not None:
            rows = present_rows(tracks, crop, config)
            t, identities = (tracks.frames[rows] - start) // config.frame_step, tracks.ids[rows].tolist()
            slots = {identity: slot for slot, identity in enumerate(dict.fromkeys(identities))}
            m = [slots[identity] for identity in identities]
            present[t, b, m], ids[t, b, m], labels[b, m] = True, identities, tracks.labels[rows]
            boxes[t, b, m] = tracks.boxes[rows] - (left, top, 0, 0)
    count = np.full(shape[:2], -1) if tracks is None else present.sum(-1)
    frames, *fields = (torch.from_numpy(field) for field in (pixels, count, present, boxes, ids, labels))
    return Sequences._make([from_uint8(frames.movedim(-1, 2)), *fields, None])


def _draw(
    start: int, objects: Tracks, size: tuple[int, int], config: VideoConfig, rng: np.random.Generator
) -> Crop | None:
    """A crop at random; None for a tracked crop if there is no object half-way through the sequence."""
    if config.crops == "random":
        return Crop(start, *(int(rng.integers(side - config.crop + 1)) for side in size))
    middle = start + config.num_frames // 2 * config.frame_step
    first, end = np.searchsorted(objects.frames, [middle, middle + 1])
    if first == end:
        return None
    box = objects.boxes[rng.integers(first, end)]
    corner = box[:2] + box[2:] / 2 - config.crop * (0.5 + rng.uniform(-_JITTER, _JITTER, 2))
    return Crop(start, *np.clip(corner.round(), 0, np.array(size) - config.crop).astype(int).tolist())
