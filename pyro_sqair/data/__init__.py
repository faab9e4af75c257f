# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Videos to train and test on, with what is known about the objects in them."""

from pyro_sqair.data.digits import DigitImages, crop_digits, embedded_digits
from pyro_sqair.data.mnist import mnist_digits
from pyro_sqair.data.moving_digits import (
    MotionConfig,
    MovingDigits,
    gentle_motion,
    published_motion,
)
from pyro_sqair.data.sequences import Physics, Sequences, Source, held_out

__all__ = [
    "DigitImages",
    "MotionConfig",
    "MovingDigits",
    "Physics",
    "Sequences",
    "Source",
    "crop_digits",
    "embedded_digits",
    "gentle_motion",
    "held_out",
    "mnist_digits",
    "published_motion",
]
