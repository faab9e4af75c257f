# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""`pyro-sqair data video`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from pyro_sqair.data import VideoConfig, convert_video


@dataclass
class Video:
    """Extracts sequences of moving objects from static-camera video: OUT.h5 for training, OUT-val.h5 for validation."""

    source: tyro.conf.Positional[Path]
    """a video file, or a folder of images"""
    out: tyro.conf.Positional[Path]
    """the training file, OUT.h5; the validation file is OUT-val.h5 in the same folder"""
    video: Annotated[VideoConfig, tyro.conf.arg(name="")] = field(default_factory=VideoConfig)
    ground_truth: Path | None = None
    """MOTChallenge file of boxes; they become the ground truth of the sequences"""
    overwrite: bool = False
    """replace existing files"""

    def __call__(self) -> None:
        made = convert_video(self.source, self.out, self.video, self.ground_truth, self.overwrite)
        print(f"{made.num_frames} frames, scaled to {made.frame_size[0]}x{made.frame_size[1]} pixels")
        for path, number in zip((made.train, made.validation), made.sequences, strict=False):
            if path is not None:
                print(f"{path}: {number} sequences of {self.video.num_frames} frames")
