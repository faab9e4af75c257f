# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""A prior of your own: physics in thirty lines of Pyro, against the GRU that has to learn it.

    python examples/custom_prior.py

Trains SQAIR twice on balls in a box, with the same guide, and lets each model imagine how they go on.
"""

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
import tyro
from torch import nn
from torch.nn.functional import softplus

from pyro_sqair.data import held_out
from pyro_sqair.experiments.presets import small_balls_preset
from pyro_sqair.experiments.report import simulate, validate
from pyro_sqair.experiments.videos import BallVideos
from pyro_sqair.models import GRUPriorConfig
from pyro_sqair.training import Trainer
from pyro_sqair.viz import draw_errors, draw_prediction

BASE = small_balls_preset()
GRU = dataclasses.replace(BASE.system, propagation=GRUPriorConfig())  # the paper's prior, which has to learn motion
BALLS = dataclasses.replace(BASE.videos.balls, min_balls=2, max_balls=2)
WALL = 1 - 2 * BALLS.radii[0] / BALLS.box  # how far a centre gets from the middle of the frame


class Physics(nn.Module):
    """A ball goes straight on, looks as it did, and is reflected by the walls. Collisions are surprises to it."""

    def __init__(self, what_dim: int) -> None:
        super().__init__()
        self.jitter = nn.Parameter(torch.full((4,), -4.0))  # how far a box strays from where it is expected
        self.fade = nn.Parameter(torch.full((what_dim,), -1.0))
        # In surprises, for place and velocity, once seen, twice, or more often: at first a box may be far off its ball.
        self.trust = nn.Parameter(torch.tensor([[2.0, -1.0], [1.0, 0.0], [0.0, -1.0]]))

    def forward(self, previous, memory, slots):
        """memory [*, N, 4 + D + 2 + 1]: the box and looks that were expected, the velocity, frames since discovery."""
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


@dataclass
class Arguments:
    """Command line."""

    steps: int = 1500
    """for each of the two"""
    out: Path = Path("runs/custom_prior")
    threads: int | None = None
    """CPU threads; 1 beside another training"""
    seed: int = 0
    sequences: int = 128
    """held-out sequences to judge on"""


def judge(model, guide, test, step):
    """What the trainer logs every now and then."""
    return validate(model, guide, test)


def main(args: Arguments) -> None:
    """Trains with either prior, and compares what they imagine after four frames."""
    videos = BallVideos(BALLS)
    scene = dataclasses.replace(BASE.scene, num_slots=2)
    base = dataclasses.replace(BASE, scene=scene, videos=videos, system=GRU)
    config = dataclasses.replace(base.training, steps=args.steps, seed=args.seed, threads=args.threads)
    test = held_out(videos.source("test"), args.sequences, length=14, seed=1)
    errors = {}
    for name in ("GRU", "physics"):
        torch.manual_seed(args.seed)
        model, guide = base.programs()
        if name == "physics":
            model.propagation_prior = Physics(base.scene.what_dim)
        out, few = args.out / name, test.slice(slice(64))
        elbo, check = base.estimator(), functools.partial(judge, model, guide, few)
        identity = base.identity() | {"arm": name, "balls": dataclasses.asdict(BALLS)}
        trainer = Trainer(model, guide, elbo, videos.source("train"), config, out, check, identity)
        if not trainer.complete():
            raise SystemExit("the same command continues")
        with trainer.averaged_weights():
            found, rollout = simulate(model, guide, test, seen=4)
        draw_prediction(test.frames, rollout, 4, out / "prediction.png")
        errors[name] = found["expected_error_per_frame"]
        off = f"{found['expected_error']:.2f} px off ({found['error']:.2f} in a single future)"
        print(f"{name:8} {off}, {found['lost']:.1%} lost, {found['data']:.1f} nats a frame")
        errors["standing still"] = found["still_error_per_frame"]
    print(f"standing still: {found['still_error']:.2f} px off")
    draw_errors(errors, args.out / "errors.png")
    print(f"pictures: {args.out}/errors.png and */prediction.png")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
