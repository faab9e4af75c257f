# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Experiments: videos, a system of the papers and a training recipe. Trains and loads runs."""

from pyro_sqair.experiments.experiment import Experiment, Interrupted, Run, load
from pyro_sqair.experiments.fitted import CustomPrior, FittedPrior
from pyro_sqair.experiments.fitting import fit_run
from pyro_sqair.experiments.from_file import file_experiment
from pyro_sqair.experiments.presets import PRESETS, preset
from pyro_sqair.experiments.systems import SYSTEMS, AIRSystem, SQAIRSystem, VRNNSystem
from pyro_sqair.experiments.videos import BallVideos, DigitVideos, FileVideos

__all__ = [
    "PRESETS",
    "SYSTEMS",
    "AIRSystem",
    "BallVideos",
    "CustomPrior",
    "DigitVideos",
    "Experiment",
    "FileVideos",
    "FittedPrior",
    "Interrupted",
    "Run",
    "SQAIRSystem",
    "VRNNSystem",
    "file_experiment",
    "fit_run",
    "load",
    "preset",
]
