# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""From planned crops and the pictures of a passing video to a file of sequences."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch

from pyro_sqair.data.camera.background import Frame
from pyro_sqair.data.camera.crops import Crop, CropTracks
from pyro_sqair.data.camera.video_config import VideoConfig
from pyro_sqair.data.files.writer import SequenceWriter
from pyro_sqair.data.pixels import from_uint8
from pyro_sqair.data.sequences import Sequences

# Sequences written at a time.
_BATCH = 64


class CropWriter:
    """Cuts crops out of pictures that pass by in order of time, and writes those that are complete.

    Only the crops that have begun are in memory, whatever the length of the video.

    Args:
        writer: of a file with as many slots as any crop has objects.
        plan: the crops, in the order of their first frames.
        truth: the objects of each crop; None where nobody knows them.
        config: the side of the crops and their frames.
        max_objects: M, the slots of the file.
    """

    def __init__(
        self,
        writer: SequenceWriter,
        plan: list[Crop],
        truth: list[CropTracks] | None,
        config: VideoConfig,
        max_objects: int,
    ) -> None:
        self._writer, self._config, self._max_objects = writer, config, max_objects
        known: list[CropTracks | None] = [None] * len(plan) if truth is None else [*truth]
        self._waiting = deque(zip(plan, known, strict=True))
        self._begun: deque[tuple[Crop, CropTracks | None, Frame]] = deque()
        self._complete: list[tuple[CropTracks | None, Frame]] = []

    def __bool__(self) -> bool:
        """Whether crops are still to come or to be completed."""
        return bool(self._waiting or self._begun)

    def takes(self, t: int) -> bool:
        """Whether a crop takes the frame t; no frame after it may have been passed to `add`."""
        begins = bool(self._waiting) and self._waiting[0][0].start == t
        return begins or any((t - crop.start) % self._config.frame_step == 0 for crop, _, _ in self._begun)

    def add(self, t: int, picture: Frame) -> None:
        """Cuts crops out of the picture of frame t, uint8 [H, W, C]."""
        side, length = self._config.crop, self._config.num_frames
        while self._waiting and self._waiting[0][0].start == t:
            crop, found = self._waiting.popleft()
            self._begun.append((crop, found, np.empty((length, side, side, picture.shape[-1]), np.uint8)))
        for crop, _, pixels in self._begun:
            step, rest = divmod(t - crop.start, self._config.frame_step)
            if rest == 0:
                pixels[step] = picture[crop.top : crop.top + side, crop.left : crop.left + side]
        while self._begun and self._begun[0][0].start + self._config.span - 1 == t:
            _, found, pixels = self._begun.popleft()
            self._complete.append((found, pixels))
            if len(self._complete) == _BATCH:
                self.flush()

    def flush(self) -> None:
        """Writes the crops that are complete and have not been written yet."""
        if self._complete:
            pixels = torch.from_numpy(np.stack([crop for _, crop in self._complete], 1)).movedim(-1, 2)
            self._writer.append(_sequences(pixels, [found for found, _ in self._complete], self._max_objects))
            self._complete = []


def _sequences(pixels: torch.Tensor, truth: list[CropTracks | None], slots: int) -> Sequences:
    """A batch from bytes [T, B, C, H, W] and the objects of each of its crops."""
    length, batch = pixels.shape[:2]
    count = np.full((length, batch), -1, np.int64)
    present = np.zeros((length, batch, slots), np.bool_)
    boxes = np.zeros((length, batch, slots, 4), np.float32)
    ids = np.full((length, batch, slots), -1, np.int64)
    labels = np.full((batch, slots), -1, np.int64)
    for b, found in enumerate(truth):
        if found is None:
            continue
        m = len(found.labels)
        count[:, b] = found.present.sum(-1)
        present[:, b, :m], boxes[:, b, :m], ids[:, b, :m], labels[b, :m] = found
    return Sequences(
        frames=from_uint8(pixels),
        count=torch.from_numpy(count),
        present=torch.from_numpy(present),
        boxes=torch.from_numpy(boxes),
        ids=torch.from_numpy(ids),
        labels=torch.from_numpy(labels),
    )
