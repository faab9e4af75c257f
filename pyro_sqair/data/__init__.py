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
from pyro_sqair.data.camera.video import convert_video
from pyro_sqair.data.camera.video_config import VideoConfig
from pyro_sqair.data.digits import DigitImages, embedded_digits
from pyro_sqair.data.files.dataset import SequenceDataset
from pyro_sqair.data.files.fingerprint import Fingerprint
from pyro_sqair.data.files.rnem import RNEMDataset, convert_rnem, is_rnem, open_sequences
from pyro_sqair.data.files.writer import SequenceWriter, write_sequences
from pyro_sqair.data.mnist import mnist_digits
from pyro_sqair.data.moving_digits import (
    MotionConfig,
    MovingDigits,
    gentle_motion,
    published_motion,
)
from pyro_sqair.data.sequences import Sequences, Source, from_uint8, held_out, only_visible, quantise

__all__ = [
    "BallsConfig",
    "BouncingBalls",
    "DigitImages",
    "Fingerprint",
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
    "curtained_balls",
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
    "six_to_eight_balls",
    "write_sequences",
]
