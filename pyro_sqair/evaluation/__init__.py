# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Measures of a trained model and guide on held-out video: likelihood, counting, tracking, simulation."""

from pyro_sqair.evaluation.counting import CountAccuracy, count_accuracy, discoveries_per_frame
from pyro_sqair.evaluation.forecast import simulate
from pyro_sqair.evaluation.likelihood import Estimate, Likelihood, evaluate_likelihood
from pyro_sqair.evaluation.simulation import (
    RolloutError,
    SimulationLikelihood,
    rollout_error,
    simulation_likelihood,
)
from pyro_sqair.evaluation.tracking import TrackingScore, tracking_score

__all__ = [
    "CountAccuracy",
    "Estimate",
    "Likelihood",
    "RolloutError",
    "SimulationLikelihood",
    "TrackingScore",
    "count_accuracy",
    "discoveries_per_frame",
    "evaluate_likelihood",
    "rollout_error",
    "simulate",
    "simulation_likelihood",
    "tracking_score",
]
