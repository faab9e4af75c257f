# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""How a recording becomes sequences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class VideoConfig:
    """How a static camera's video becomes sequences; defaults as in Kosiorek et al. 2018, Appendix E, where it says.

    Distances in pixels of the scaled frame, times in frames of the video.

    Attributes:
        num_frames: T, frames in a sequence (the paper's 5).
        frame_step: a sequence takes every so manieth frame of the video; 2 halves the frame rate.
        stride: from one frame at which sequences may begin to the next.
        sequences: how many to make, training and validation together (the paper's 3500).
        validation_fraction: share of the video, from its end, and of the sequences that is for validation (the
            paper's 0.1); 0 for none. No frame is on both sides.
        size: (width, height) that frames are scaled to (the paper's 240 x 175).
        keep_aspect: scale both sides alike, so that the frame just covers `size`, and never enlarge it; if False,
            frames get exactly this size, which stretched the paper's people by 1.3.
        crop: side of the square that a sequence shows of the frames (the paper's 64).
        crops: "random" puts it anywhere (the paper); "tracked" around something that moves: an object of the ground
            truth, or else a piece of the foreground. Within a sequence it never moves.
        min_objects: a sequence shows at least so many objects in some frame; 0 takes empty ones too.
        max_objects: a sequence shows at most so many objects in any frame (the paper's 3); None for no limit.
            Objects are those of the ground truth, or else connected pieces of the foreground.
        background: "median" for one image, "mog2" or "knn" for a model that follows the light.
        samples: frames of which the median is taken, at most; evenly spaced over the video.
        warm_up: frames that MOG2 or KNN learn from before they begin.
        threshold: for the median: levels of 255 by which foreground differs at least.
        noise: for the median: added to that, in median absolute deviations of the pixel.
        blur: standard deviation of the Gaussian that smooths pixels before they are judged.
        min_area: smaller pieces of the foreground are dropped, square pixels.
        contrast: a moving pixel v becomes 255 - contrast * v: 1 is the full negative, 0 a silhouette.
        colour: red, green, blue instead of grey (the paper's).
        ground_truth_size: (width, height) of the images that the ground truth was drawn on; None if its
            `seqinfo.ini` tells, or it is the video's.
        seed: of the draws of crops.
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
    samples: int = 128
    warm_up: int = 500
    threshold: float = 30.0
    noise: float = 3.0
    blur: float = 0.5
    min_area: float = 15.0
    contrast: float = 0.5
    colour: bool = False
    ground_truth_size: tuple[int, int] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_frames", "frame_step", "stride", "sequences", "crop", "warm_up"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}")
        if self.samples < 2:
            raise ValueError(f"expected samples of at least 2, got {self.samples}")
        if not 0.0 <= self.validation_fraction < 1.0:
            raise ValueError(f"expected 0 <= validation_fraction < 1, got {self.validation_fraction}")
        if self.min_objects < 0 or (self.max_objects is not None and self.max_objects < max(1, self.min_objects)):
            raise ValueError(
                "expected 0 <= min_objects <= max_objects and max_objects of at least 1 or None, "
                f"got {self.min_objects} and {self.max_objects}"
            )
        for name in ("threshold", "noise", "blur", "min_area"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ValueError(f"expected a finite {name} of at least 0, got {getattr(self, name)}")
        if not 0.0 <= self.contrast <= 1.0:
            raise ValueError(f"expected 0 <= contrast <= 1, got {self.contrast}")
        if self.seed < 0:
            raise ValueError(f"expected a seed of at least 0, got {self.seed}")
        for name in ("size", "ground_truth_size"):
            size = getattr(self, name)
            if size is not None and (len(size) != 2 or min(size) < 1):
                raise ValueError(f"expected {name} as (width, height) of at least 1 each, got {size}")
        for field, choices in (("crops", ("random", "tracked")), ("background", ("median", "mog2", "knn"))):
            if getattr(self, field) not in choices:
                raise ValueError(f"expected {field} to be one of {choices}, got {getattr(self, field)!r}")

    @property
    def span(self) -> int:
        """Frames of the video from the first of a sequence to its last, both included."""
        return (self.num_frames - 1) * self.frame_step + 1

    def scaled_size(self, video_size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) that frames of `video_size` are scaled to.

        Raises:
            ValueError: if the crop is larger than that.
        """
        size = self.size
        if self.keep_aspect:
            scale = min(1.0, max(to / of for to, of in zip(self.size, video_size, strict=True)))
            size = (round(video_size[0] * scale), round(video_size[1] * scale))
        if self.crop > min(size):
            raise ValueError(
                f"expected a crop of at most {min(size)} px, for frames of {video_size[0]}x{video_size[1]} are scaled "
                f"to {size[0]}x{size[1]}, got {self.crop} px"
            )
        return size

    def parts(self, num_frames: int) -> list[range]:
        """The frames for training and, if there is a validation fraction, those after them for validation.

        Raises:
            ValueError: if one of them is shorter than a sequence.
        """
        if num_frames < self.span:
            raise ValueError(
                f"expected a video of at least {self.span} frames, for sequences of {self.num_frames}"
                f"{f' with a step of {self.frame_step}' if self.frame_step > 1 else ''}, got {num_frames}"
            )
        if self.validation_fraction == 0:
            return [range(num_frames)]
        boundary = num_frames - round(num_frames * self.validation_fraction)
        parts = [range(boundary), range(boundary, num_frames)]
        for name, part in zip(("training", "validation"), parts, strict=True):
            if len(part) < self.span:
                raise ValueError(
                    f"expected at least {self.span} frames for {name}, got {len(part)} of {num_frames} with "
                    f"validation_fraction={self.validation_fraction}"
                )
        return parts

    def shares(self) -> list[int]:
        """How many sequences each of `parts` gets."""
        if self.validation_fraction == 0:
            return [self.sequences]
        validation = max(1, round(self.sequences * self.validation_fraction))
        return [max(1, self.sequences - validation), validation]
