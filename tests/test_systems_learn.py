# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Every system, and every prior that no preset has, learns scikit-learn's digits a little, in minutes on one core.

The baseline knows the mean image only: each pixel by itself, Gaussian about its mean. Systems with objects also have
to count better than the most frequent count does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pyro_sqair.experiments import AIRSystem, Experiment, Run, SQAIRSystem, VRNNSystem, preset
from pyro_sqair.experiments.report import evaluate
from pyro_sqair.models import CategoricalCount, RandomWalkPrior
from pyro_sqair.nn.backbone import conv_vrnn
from pyro_sqair.nn.convolutions import ConvolutionConfig
from pyro_sqair.nn.relations import InteractionConfig, MemoryCoreConfig
from pyro_sqair.scene import Program, boxes
from pyro_sqair.tracking import infer_objects

pytestmark = pytest.mark.slow

BASE = replace(preset("embedded-digits"), test_frames=4)
PLAIN = SQAIRSystem(96, output_scale=1.0, object_costs=(5.0, 10.0))
MOST_FREQUENT = 0.5  # more than the share of videos with the most frequent number of digits, 0.39
SMALL_CNN = ConvolutionConfig((8, 16), (2, 2), 64, (5, 5), 16, (16, 16), (2, 2))


def train(experiment: Experiment, steps: int, out: Path, programs: tuple[Program, Program] | None = None) -> Run:
    """Trains for some steps of three frames."""
    short = {"steps": steps, "curriculum": ((3, 1.0),), "ema_decay": 0.98, "validate_every": 10 * steps}
    return experiment.with_training(**short).train(out, device="cpu", programs=programs, progress=False)


def judge(run: Run) -> dict[str, float]:
    """Figures on held-out sequences of four frames, all of which must be better than the baseline's."""
    test = BASE.held_out(128, seed=3)
    frames = test.frames.double()
    pixels = torch.distributions.Normal(frames.mean((0, 1)), 0.3)  # the standard deviation of all systems
    baseline = float(pixels.log_prob(frames).flatten(2).sum(-1).mean())
    metrics = evaluate(run.model, run.guide, test, num_particles=(5,))
    print(run.experiment.system, {name: metrics.get(name) for name in ("iwae_5_per_frame", "count_accuracy")})
    assert metrics["iwae_5_per_frame"] > baseline + 150
    assert metrics.get("count_accuracy", 1.0) > MOST_FREQUENT
    return metrics


SYSTEMS = {
    "conv-sqair": (replace(PLAIN, convolutions=SMALL_CNN), 800),
    "air": (AIRSystem(96, output_scale=1.0, success=math.exp(-5)), 700),
    "vrnn": (VRNNSystem(), 600),
    "conv-vrnn": (VRNNSystem(replace(conv_vrnn(), maps=(8, 16, 16), strides=(2, 2, 2))), 600),
    "r-sqair-in": (replace(PLAIN, relations=InteractionConfig()), 700),
    "r-sqair-rmc": (replace(PLAIN, relations=MemoryCoreConfig()), 700),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_system_learns(name: str, tmp_path: Path) -> None:
    system, steps = SYSTEMS[name]
    metrics = judge(train(replace(BASE, system=system), steps, tmp_path))
    assert ("count_accuracy" in metrics) == (not name.endswith("vrnn"))


PARTS: dict[str, Callable[[Program], None]] = {
    "random walk": lambda model: setattr(model, "propagation_prior", RandomWalkPrior(BASE.scene.what_dim, 96)),
    "categorical count": lambda model: setattr(model.discovery_prior, "count", CategoricalCount(BASE.scene.num_slots)),
}


@pytest.mark.parametrize("name", PARTS)
def test_prior_is_learned_with(name: str, tmp_path: Path) -> None:
    experiment = replace(BASE, system=PLAIN)
    model, guide = experiment.programs()
    PARTS[name](model)
    judge(train(experiment, 500, tmp_path, (model, guide)))


def test_balls_are_found(tmp_path: Path) -> None:
    """Boxes come to lie on balls whose size is known: on those of their own video, not of another."""
    experiment = replace(preset("small-balls-in"), test_frames=4)
    _, _, guide = train(experiment, 700, tmp_path)
    test = experiment.held_out(128, seed=3)
    found = infer_objects(guide, test.frames)

    def distance(true: Tensor) -> float:
        """Pixels between boxes and balls in the last frame, paired so that the sum is least."""
        inferred = boxes(found.where, experiment.scene.image_size)
        first, second = (b[-1, ..., :2] + b[-1, ..., 2:] / 2 for b in (inferred, true))
        costs = torch.cdist(first, second).numpy()
        return float(np.mean([cost[linear_sum_assignment(cost)].mean() for cost in costs]))

    own, others = distance(test.boxes), distance(test.boxes.roll(1, 1))
    print("balls", own, others)
    assert own < 0.6 * others
