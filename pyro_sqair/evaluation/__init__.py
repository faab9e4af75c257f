# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""What a trained model is worth: its likelihood, its counts, its tracks, its dreams."""

from pyro_sqair.evaluation.counting import CountAccuracy, count_accuracy, discoveries_per_frame
from pyro_sqair.evaluation.likelihood import Estimate, Likelihood, evaluate_likelihood
from pyro_sqair.evaluation.simulation import (
    RolloutError,
    SimulationLikelihood,
    rollout_error,
    simulation_likelihood,
)
from pyro_sqair.evaluation.tracking import (
    IdStability,
    TrackingScore,
    id_stability,
    identity_switches,
)

__all__ = [
    "CountAccuracy",
    "Estimate",
    "IdStability",
    "Likelihood",
    "RolloutError",
    "SimulationLikelihood",
    "TrackingScore",
    "count_accuracy",
    "discoveries_per_frame",
    "evaluate_likelihood",
    "id_stability",
    "identity_switches",
    "rollout_error",
    "simulation_likelihood",
]
