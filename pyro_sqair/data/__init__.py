# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Videos to train and test on, with ground truth about their objects."""

from pyro_sqair.data.balls.bouncing_balls import (
    BallsConfig,
    BouncingBalls,
    coloured_balls,
    curtained_balls,
    four_balls,
    six_to_eight_balls,
)
from pyro_sqair.data.camera.mot import read_mot
from pyro_sqair.data.camera.video import ConvertedVideo, convert_video
from pyro_sqair.data.camera.video_config import VideoConfig
from pyro_sqair.data.digits import DigitImages, crop_digits, embedded_digits
from pyro_sqair.data.files.dataset import SequenceDataset
from pyro_sqair.data.files.rnem import RNEMDataset, convert_rnem, is_rnem, open_sequences
from pyro_sqair.data.files.writer import SequenceWriter, write_sequences
from pyro_sqair.data.mnist import mnist_digits
from pyro_sqair.data.moving_digits import (
    MotionConfig,
    MovingDigits,
    gentle_motion,
    published_motion,
)
from pyro_sqair.data.pixels import from_uint8, quantise, to_uint8
from pyro_sqair.data.sequences import Sequences, Source, draw_chunks, held_out
from pyro_sqair.data.visibility import only_visible

__all__ = [
    "BallsConfig",
    "BouncingBalls",
    "ConvertedVideo",
    "DigitImages",
    "MotionConfig",
    "MovingDigits",
    "RNEMDataset",
    "SequenceDataset",
    "SequenceWriter",
    "Sequences",
    "Source",
    "VideoConfig",
    "coloured_balls",
    "convert_rnem",
    "convert_video",
    "crop_digits",
    "curtained_balls",
    "draw_chunks",
    "embedded_digits",
    "four_balls",
    "from_uint8",
    "gentle_motion",
    "held_out",
    "is_rnem",
    "mnist_digits",
    "only_visible",
    "open_sequences",
    "published_motion",
    "quantise",
    "read_mot",
    "six_to_eight_balls",
    "to_uint8",
    "write_sequences",
]
