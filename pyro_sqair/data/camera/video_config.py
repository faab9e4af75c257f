# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Configuration of the conversion of a video to sequences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple


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
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}")
        for name in ("threshold", "noise", "blur", "min_area", "seed"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ValueError(f"expected a finite {name} of at least 0, got {getattr(self, name)}")
        if not 0.0 <= self.validation_fraction < 1.0:
            raise ValueError(f"expected 0 <= validation_fraction < 1, got {self.validation_fraction}")
        if not 0.0 <= self.contrast <= 1.0:
            raise ValueError(f"expected 0 <= contrast <= 1, got {self.contrast}")
        if self.min_objects < 0 or (self.max_objects is not None and self.max_objects < max(1, self.min_objects)):
            raise ValueError(
                "expected 0 <= min_objects <= max_objects and max_objects of at least 1 or None, "
                f"got {self.min_objects} and {self.max_objects}"
            )
        for name in ("size", "ground_truth_size"):
            size = getattr(self, name)
            if size is not None and (len(size) != 2 or min(size) < 1):
                raise ValueError(f"expected {name} as (width, height) of at least 1 each, got {size}")
        for name, choices in (("crops", ("random", "tracked")), ("background", ("median", "mog2", "knn"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"expected {name} to be one of {choices}, got {getattr(self, name)!r}")

    @property
    def span(self) -> int:
        """Number of video frames from the first frame of a sequence to its last."""
        return (self.num_frames - 1) * self.frame_step + 1

    def scaled_size(self, video_size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) to which frames of `video_size` are scaled.

        Raises:
            ValueError: if it is smaller than the crop.
        """
        size = self.size
        if self.keep_aspect:
            scale = min(1.0, max(to / of for to, of in zip(self.size, video_size, strict=True)))
            size = (round(video_size[0] * scale), round(video_size[1] * scale))
        if self.crop > min(size):
            scaled = f"frames of {video_size[0]}x{video_size[1]} scaled to {size[0]}x{size[1]}"
            raise ValueError(f"expected a crop of at most {min(size)} px, for {scaled}, got {self.crop} px")
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
            if len(part.frames) < self.span:
                raise ValueError(
                    f"expected at least {self.span} frames in the {part.name} part, got {len(part.frames)} of "
                    f"{num_frames} (num_frames={self.num_frames}, frame_step={self.frame_step}, "
                    f"validation_fraction={self.validation_fraction})"
                )
        return parts
