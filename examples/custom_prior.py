# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""A prior of your own: physics in thirty lines of Pyro, against the GRU that has to learn it.

    python examples/custom_prior.py

Trains SQAIR twice on two balls in a box, with the same guide, and compares what the two models imagine.
"""

import dataclasses
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
import tyro
from torch import nn
from torch.nn.functional import softplus

from pyro_sqair.evaluation import simulate
from pyro_sqair.experiments import BallVideos, preset
from pyro_sqair.models import GRUPriorConfig
from pyro_sqair.viz import draw_errors

BASE = preset("small-balls")
BALLS = dataclasses.replace(BASE.videos.balls, min_balls=2, max_balls=2)
WALL = 1 - 2 * BALLS.radii[0] / BALLS.box  # how far a centre gets from the middle of the frame


class Physics(nn.Module):
    """A ball moves in a straight line, keeps its appearance, and is reflected by the walls; collisions surprise it."""

    def __init__(self, what_dim: int) -> None:
        super().__init__()
        self.jitter = nn.Parameter(torch.full((4,), -4.0))  # the softplus of these are standard deviations
        self.fade = nn.Parameter(torch.full((what_dim,), -1.0))
        # In surprises, for place and velocity, once seen, twice, or more often: at first a box may be far off its ball.
        self.trust = nn.Parameter(torch.tensor([[2.0, -1.0], [1.0, 0.0], [0.0, -1.0]]))

    def forward(self, previous, memory, slots):
        """memory [*, N, 4 + D + 2 + 1]: expected box and appearance, velocity, frames since discovery."""
        seen = torch.cat([previous.where[..., :2], previous.where[..., 2:].tanh(), previous.what], -1)
        if memory is None:
            memory = seen.new_zeros(*seen.shape[:-1], seen.shape[-1] + 3)
        expected, velocity, age = memory.split([seen.shape[-1], 2, 1], -1)
        place, speed = self.trust.sigmoid()[age.clamp(1, 3).long().squeeze(-1) - 1].split(1, -1)
        surprise = seen - torch.where(age > 0, expected, seen)
        velocity = velocity + speed * surprise[..., 2:4]
        now = torch.where(age > 0, expected, seen) + place * surprise
        ahead = now[..., 2:4] + velocity  # from -1 to 1 across the frame
        beyond = ahead.abs() > WALL
        ahead = torch.where(beyond, 2 * WALL * ahead.sign() - ahead, ahead).clamp(-0.99, 0.99)
        where, what = torch.cat([now[..., :2], ahead.atanh()], -1), now[..., 4:]
        for i in slots:
            pyro.sample("pres", dist.Bernoulli(ahead.new_tensor(0.999)))
            pyro.sample("where", dist.Normal(where[..., i, :], softplus(self.jitter) + 0.01).to_event(1))
            pyro.sample("what", dist.Normal(what[..., i, :], softplus(self.fade) + 0.01).to_event(1))
        velocity = torch.where(beyond, -velocity, velocity)
        return torch.cat([now[..., :2], ahead, what, velocity, age + 1], -1)


def main(steps: int = 1500, out: Path = Path("runs/custom_prior"), threads: int | None = None, seed: int = 0) -> None:
    """Trains with either prior, and compares what they imagine after four frames."""
    torch.set_num_threads(threads or torch.get_num_threads())
    system = dataclasses.replace(BASE.system, propagation=GRUPriorConfig())  # the paper's prior
    scene = dataclasses.replace(BASE.scene, num_slots=2)
    experiment = dataclasses.replace(BASE, scene=scene, videos=BallVideos(BALLS), system=system, test_frames=14)
    experiment = experiment.with_training(steps=steps, seed=seed)
    model, guide = experiment.programs()
    model.propagation_prior = Physics(scene.what_dim)
    test, errors = experiment.held_out(128), {}
    for name, programs in {"GRU": None, "physics": (model, guide)}.items():
        run = experiment.train(out / name, programs=programs)
        found, _ = simulate(run.model, run.guide, test, seen=4)
        errors |= {name: found["expected_error_per_frame"], "standing still": found["still_error_per_frame"]}
        print(f"{name:8} {found['expected_error']:.2f} px off ({found['error']:.2f} in a single future, ", end="")
        print(f"{found['still_error']:.2f} standing still), {found['lost']:.1%} lost, {found['data']:.1f} nats a frame")
    draw_errors(errors, out / "errors.png")


if __name__ == "__main__":
    tyro.cli(main)
