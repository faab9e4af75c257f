# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Every system, and every prior, learns something small: scikit-learn's digits, in a minute or two on one core.

The yardstick is what can be said of the videos without looking at any one of them: each pixel by itself, Gaussian about
its mean. Systems that know objects also have to count better than one who always gives the most frequent answer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pyro_sqair.data import Sequences, held_out
from pyro_sqair.experiments.presets import Preset, embedded_digits_preset, small_balls_preset
from pyro_sqair.experiments.report import validate
from pyro_sqair.experiments.systems import AIRSystem, SQAIRSystem, VRNNSystem
from pyro_sqair.models import (
    CategoricalCount,
    GeometricCount,
    GRUPropagationPrior,
    GuidedWalkPrior,
    RandomWalkPrior,
)
from pyro_sqair.nn.backbone import conv_vrnn
from pyro_sqair.nn.convolutions import ConvolutionConfig
from pyro_sqair.nn.relations import InteractionConfig, MemoryCoreConfig
from pyro_sqair.scene.program import Program
from pyro_sqair.scene.spatial import boxes as where_boxes
from pyro_sqair.tracking.rollout import infer_objects
from pyro_sqair.training import Trainer

pytestmark = pytest.mark.slow

BASE = embedded_digits_preset()
PLAIN = SQAIRSystem(96, output_scale=1.0, object_costs=(5.0, 10.0))
ALWAYS_THE_SAME = 0.5  # more than the share of videos with the most frequent number of digits, 0.39
SMALL_CNN = ConvolutionConfig((8, 16), (2, 2), 64, (5, 5), 16, (16, 16), (2, 2))


@pytest.fixture(scope="module")
def test_set() -> Sequences:
    return held_out(BASE.source("test"), 128, 4, seed=3)


@pytest.fixture(scope="module")
def yardstick(test_set: Sequences) -> float:
    """Nats a frame of pixels Gaussian about the mean image with standard deviation 0.3, as all systems have."""
    frames = test_set.frames.double()
    law = torch.distributions.Normal(frames.mean((0, 1)), 0.3)
    return float(law.log_prob(frames).flatten(2).sum(-1).mean())


def train(
    preset: Preset, programs: tuple[Program, Program], steps: int, test: Sequences, out: Path
) -> dict[str, float]:
    """Trains for so many steps of three frames and judges on held-out sequences of four."""
    config = dataclasses.replace(
        preset.training, steps=steps, curriculum=((3, 1.0),), ema_decay=0.98, validate_every=10 * steps, threads=1
    )
    model, guide = programs
    trainer = Trainer(model, guide, preset.estimator(), preset.source("train"), config, out, progress=False)
    assert trainer.complete()
    with trainer.averaged_weights(), torch.no_grad():
        return validate(model, guide, test)


SYSTEMS = {
    "conv-sqair": (dataclasses.replace(PLAIN, convolutions=SMALL_CNN), 800),
    "air": (AIRSystem(96, output_scale=1.0, success=math.exp(-5)), 700),
    "vrnn": (VRNNSystem(), 600),
    "conv-vrnn": (VRNNSystem(dataclasses.replace(conv_vrnn(), maps=(8, 16, 16), strides=(2, 2, 2))), 600),
    "r-sqair-in": (dataclasses.replace(PLAIN, relations=InteractionConfig()), 700),
    "r-sqair-rmc": (dataclasses.replace(PLAIN, relations=MemoryCoreConfig()), 700),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_system_learns(name: str, test_set: Sequences, yardstick: float, tmp_path: Path) -> None:
    system, steps = SYSTEMS[name]
    preset = dataclasses.replace(BASE, system=system)
    torch.manual_seed(0)
    metrics = train(preset, preset.programs(), steps, test_set, tmp_path)
    print(name, metrics)
    assert metrics["bound"] > yardstick + 150
    if not name.endswith("vrnn"):
        assert metrics["count_accuracy"] > ALWAYS_THE_SAME


PRIORS: dict[str, Callable[[], torch.nn.Module]] = {
    "gru": lambda: GRUPropagationPrior(BASE.scene.what_dim, 96),
    "random walk": lambda: RandomWalkPrior(BASE.scene.what_dim, 96),
    "guided walk": lambda: GuidedWalkPrior(BASE.scene.what_dim, 96),
}


COUNTS: dict[str, Callable[[], torch.nn.Module]] = {
    "geometric count": lambda: GeometricCount(math.exp(-7)),
    "categorical count": lambda: CategoricalCount(BASE.scene.num_slots),
}


@pytest.mark.parametrize("name", [*PRIORS, *COUNTS])
def test_prior_is_learned_with(name: str, test_set: Sequences, yardstick: float, tmp_path: Path) -> None:
    preset = dataclasses.replace(BASE, system=PLAIN)
    torch.manual_seed(0)
    model, guide = preset.programs()
    if name in COUNTS:
        model.discovery_prior.count = COUNTS[name]()
    else:
        model.propagation_prior = PRIORS[name]()
    metrics = train(preset, (model, guide), 500, test_set, tmp_path)
    print(name, metrics)
    assert metrics["bound"] > yardstick + 150
    assert metrics["count_accuracy"] > ALWAYS_THE_SAME


def test_balls_are_found(tmp_path: Path) -> None:
    """Boxes come to lie on balls whose size is known: on those of their own video, and not on another's."""
    preset = small_balls_preset(InteractionConfig())
    test = held_out(preset.source("test"), 128, 4, seed=3)
    torch.manual_seed(0)
    model, guide = preset.programs()
    metrics = train(preset, (model, guide), 700, test, tmp_path)

    def distance(boxes: Tensor) -> float:
        """Pixels between boxes and balls in the last frame, paired so that the sum is least."""
        found = infer_objects(guide, test.frames)
        size = preset.scene.image_size
        centres, truth = (b[-1, ..., :2] + b[-1, ..., 2:] / 2 for b in (where_boxes(found.where, size), boxes))
        costs = torch.cdist(centres, truth).numpy()
        return float(np.mean([cost[linear_sum_assignment(cost)].mean() for cost in costs]))

    own, others = distance(test.boxes), distance(test.boxes.roll(1, 1))
    print("balls", metrics, own, others)
    assert own < 0.6 * others
