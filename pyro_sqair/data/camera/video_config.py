# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Configuration of the conversion of a video to sequences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pyro_sqair.data.sequences import require

_LARGEST_SIDE = 2**14  # of a scaled frame, pixels; no camera has more


class Part(NamedTuple):
    """Consecutive frames of a video, and the number of sequences to cut from them."""

    name: str
    frames: range
    sequences: int


@dataclass(frozen=True)
class VideoConfig:
    """Configuration of the conversion; defaults as in Kosiorek et al. 2018, Appendix E, where it gives a value.

    Lengths are in pixels of the scaled frame. Objects are the boxes of the ground truth, or without it the connected
    components of the foreground.

    Attributes:
        num_frames: T, frames in a sequence (paper: 5).
        frame_step: temporal subsampling factor; 2 halves the frame rate.
        stride: number of video frames between possible starts of sequences.
        sequences: number of sequences, training and validation together (paper: 3500).
        validation_fraction: share of the sequences, and of the video at its end, for validation (paper: 0.1); or 0.
        size: (width, height) to which frames are scaled (paper: 240 x 175).
        keep_aspect: scale both sides alike to cover `size`, without enlarging; if False, to exactly `size` (paper).
        crop: side of the square that is cut from the frames (paper: 64).
        crops: "random" places (paper), or "tracked": centred on an object, up to a quarter side off. Crops do not move.
        min_objects: minimum number of objects in at least one frame; 0 admits empty sequences.
        max_objects: maximum number of objects in a frame (paper: 3); None for no limit.
        background: "median" of the whole video, or a model that adapts to the light: "mog2" or "knn".
        threshold: minimum difference between foreground and median, in grey levels from 0 to 255.
        noise: added to the threshold of each pixel, in units of its median absolute deviation.
        blur: standard deviation of the Gaussian filter before the threshold; 0 for none.
        min_area: minimum area of a connected component of the foreground.
        contrast: a foreground pixel v becomes 255 - contrast * v: 1 gives the negative, 0 a silhouette.
        colour: whether to keep red, green, blue; the paper's frames are grey.
        ground_truth_size: (width, height) of the annotated images; None if as in `seqinfo.ini` or as the video.
        seed: of the random crops.
    """

    num_frames: int = 5
    frame_step: int = 1
    stride: int = 1
    sequences: int = 3500
    validation_fraction: float = 0.1
    size: tuple[int, int] = (240, 175)
    keep_aspect: bool = True
    crop: int = 64
    crops: Literal["random", "tracked"] = "random"
    min_objects: int = 1
    max_objects: int | None = 3
    background: Literal["median", "mog2", "knn"] = "median"
    threshold: float = 30.0
    noise: float = 3.0
    blur: float = 0.5
    min_area: float = 15.0
    contrast: float = 0.5
    colour: bool = False
    ground_truth_size: tuple[int, int] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_frames", "frame_step", "stride", "sequences", "crop"):
            require(getattr(self, name) >= 1, f"{name} of at least 1", getattr(self, name))
        for name in ("threshold", "noise", "blur", "min_area", "seed"):
            value = getattr(self, name)
            require(0.0 <= value < math.inf, f"a finite {name} of at least 0", value)
        fraction, low, high = self.validation_fraction, self.min_objects, self.max_objects
        require(0.0 <= fraction < 1.0, "0 <= validation_fraction < 1", fraction)
        require(0.0 <= self.contrast <= 1.0, "0 <= contrast <= 1", self.contrast)
        expected = "0 <= min_objects <= max_objects and max_objects of at least 1 or None"
        require(low >= 0 and (high is None or high >= max(1, low)), expected, f"{low} and {high}")
        for name in ("size", "ground_truth_size"):
            size = getattr(self, name)
            valid = size is None or (len(size) == 2 and 1 <= min(size) <= max(size) <= _LARGEST_SIDE)
            require(valid, f"{name} as (width, height) of 1 to {_LARGEST_SIDE} px each", size)
        for name, choices in (("crops", ("random", "tracked")), ("background", ("median", "mog2", "knn"))):
            require(getattr(self, name) in choices, f"{name} to be one of {choices}", repr(getattr(self, name)))

    @property
    def span(self) -> int:
        """Number of video frames from the first frame of a sequence to its last."""
        return (self.num_frames - 1) * self.frame_step + 1

    def scaled_size(self, video_size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) to which frames of `video_size` are scaled.

        Raises:
            ValueError: if it is smaller than the crop or the blur.
        """
        size = self.size
        if self.keep_aspect:
            scale = min(1.0, max(to / of for to, of in zip(self.size, video_size, strict=True)))
            size = (round(video_size[0] * scale), round(video_size[1] * scale))
        scaled = f"frames of {video_size[0]}x{video_size[1]} scaled to {size[0]}x{size[1]}"
        for name, length in (("crop", self.crop), ("blur", self.blur)):
            require(length <= min(size), f"a {name} of at most {min(size)} px, for {scaled}", f"{length} px")
        return size

    def parts(self, num_frames: int) -> list[Part]:
        """Splits a video into a part for training and, unless `validation_fraction` is 0, one for validation.

        Raises:
            ValueError: if a part is shorter than a sequence.
        """
        held_out = round(num_frames * self.validation_fraction)
        sequences = max(1, round(self.sequences * self.validation_fraction))
        train = Part("train", range(num_frames - held_out), max(1, self.sequences - sequences))
        validation = Part("validation", range(num_frames - held_out, num_frames), sequences)
        parts = [train, validation] if self.validation_fraction > 0 else [train._replace(sequences=self.sequences)]
        for part in parts:
            names = "num_frames", "frame_step", "validation_fraction"
            settings = ", ".join(f"{name}={getattr(self, name)}" for name in names)
            expected, got = f"at least {self.span} frames in the {part.name} part", len(part.frames)
            require(got >= self.span, expected, f"{got} of {num_frames} ({settings})")
        return parts
