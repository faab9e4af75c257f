# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Running a trained model and guide: rollouts of whole videos, and a particle filter for streams."""

from pyro_sqair.tracking.filter import Filter, Tracks
from pyro_sqair.tracking.rollout import (
    Rollout,
    futures,
    generate,
    infer_objects,
    predict,
    reconstruct,
    standing_still,
)

__all__ = [
    "Filter",
    "Rollout",
    "Tracks",
    "futures",
    "generate",
    "infer_objects",
    "predict",
    "reconstruct",
    "standing_still",
]
