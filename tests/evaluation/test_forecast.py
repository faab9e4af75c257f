# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Figures of simulations: of single futures, of their mean, and of a forecast in which nothing moves."""

import dataclasses
import math

import pytest
import torch

from pyro_sqair.data import BouncingBalls, held_out
from pyro_sqair.evaluation import simulate
from pyro_sqair.experiments import preset
from pyro_sqair.scene.objects import Objects
from pyro_sqair.scene.spatial import where_from_boxes
from pyro_sqair.tracking.rollout import Rollout, standing_still

SEEN, STEPS, NUM, STD = 3, 7, 6, 0.3


@pytest.fixture
def test_set():
    balls = dataclasses.replace(preset("small-balls").videos.balls, speed=4.0)
    return held_out(BouncingBalls(balls), NUM, STEPS, seed=0)


class Model(torch.nn.Linear):
    """A model of which only the device and the renderer's standard deviation are read."""

    std = STD

    def part(self, name):
        assert name == "renderer"
        return self


def test_foresight_chance_and_standing_still(test_set, monkeypatch):
    """Two futures, off by d to either side: each has an error of d, and their mean has none."""
    size = test_set.frames.shape[-2:]
    objects = Objects(
        test_set.present.float(),
        where_from_boxes(test_set.boxes, size),
        torch.zeros(*test_set.present.shape, 1),
        test_set.ids,
    )
    later = (torch.arange(STEPS) >= SEEN).float()

    def future(pixels):
        """Balls to the right of where they will be, and a grey haze."""
        shift = later.reshape(-1, 1, 1, 1) * torch.tensor([pixels, 0.0, 0.0, 0.0])
        haze = 0.1 * pixels * later.reshape(-1, 1, 1, 1, 1)
        moved = objects._replace(where=where_from_boxes(test_set.boxes + shift, size))
        return Rollout(moved, test_set.frames + haze)

    asked = []

    def futures(model, guide, frames, steps, num):
        asked.append((len(frames), steps, num))
        return [future(0.5), future(-0.5)]

    monkeypatch.setattr("pyro_sqair.evaluation.forecast.futures", futures)
    found, last = simulate(Model(1, 1), None, test_set, SEEN, samples=2)
    assert asked == [(SEEN, STEPS, 2)]
    assert torch.equal(last.objects.where, future(-0.5).objects.where)
    assert found["error"] == pytest.approx(0.5, abs=0.02)
    assert found["expected_error"] == pytest.approx(0.0, abs=0.02)
    centres = test_set.boxes[..., :2] + test_set.boxes[..., 2:] / 2
    distance = (centres[SEEN:] - centres[SEEN - 1]).norm(dim=-1).mean((1, 2))
    assert found["still_error_per_frame"] == pytest.approx(distance.tolist(), abs=0.02)
    assert found["still_error"] == pytest.approx(distance.mean().item(), abs=0.02)

    pixels = test_set.frames[0, 0].numel()
    best = -pixels * (math.log(STD) + 0.5 * math.log(2 * math.pi))
    assert found["data"] == pytest.approx(best - 0.5 * pixels * 0.05**2 / STD**2, rel=1e-4)
    still = standing_still(Rollout(objects, test_set.frames), SEEN).image
    error = (test_set.frames - still)[SEEN:].square().sum((-3, -2, -1)).mean().item()
    assert found["still_data"] == pytest.approx(best - 0.5 * error / STD**2, rel=1e-4)


def test_sequences_without_collisions_are_refused(test_set):
    with pytest.raises(ValueError, match="expected sequences with collisions"):
        simulate(Model(1, 1), None, test_set._replace(collisions=None), SEEN)
