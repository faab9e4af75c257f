# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""A prior of your own: physics in thirty lines of Pyro, compared with the GRU that has to learn it.

python examples/custom_prior.py  # trains SQAIR on two balls with each prior, and compares what they predict
"""

from dataclasses import replace
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch

from pyro_sqair.cli import run
from pyro_sqair.evaluation import simulate
from pyro_sqair.experiments import BallVideos, preset
from pyro_sqair.models import GRUPriorConfig
from pyro_sqair.nn.networks import positive_scale
from pyro_sqair.training.device import set_threads
from pyro_sqair.viz import draw_errors

BASE = preset("small-balls")
VIDEOS = BallVideos(replace(BASE.videos.balls, min_balls=2, max_balls=2))
WALL = 1 - 2 * VIDEOS.balls.radii[0] / VIDEOS.balls.box  # largest distance of a centre from the middle of the frame


class Physics(torch.nn.Module):
    """A ball moves straight, keeps its appearance, and is reflected by the walls; collisions are not modelled."""

    def __init__(self, what_dim: int) -> None:
        super().__init__()
        self.where_scale = torch.nn.Parameter(torch.full((4,), -4.0))  # before positive_scale
        self.what_scale = torch.nn.Parameter(torch.full((what_dim,), -1.0))
        # Logits for position and velocity at age 1, 2, and 3 or more: the first boxes may be far from their balls.
        self.gain = torch.nn.Parameter(torch.tensor([[2.0, -1.0], [1.0, 0.0], [0.0, -1.0]]))

    def forward(self, previous, memory, slots):
        """memory [*, N, 4 + D + 2 + 1]: expected box and appearance, velocity, age in frames."""
        observed = torch.cat([previous.where[..., :2], previous.where[..., 2:].tanh(), previous.what], -1)
        memory = observed.new_zeros(*observed.shape[:-1], observed.shape[-1] + 3) if memory is None else memory
        expected, velocity, age = memory.split([observed.shape[-1], 2, 1], -1)
        expected = torch.where(age > 0, expected, observed)
        gain, innovation = self.gain.sigmoid()[age.clamp(1, 3).long().squeeze(-1) - 1], observed - expected
        state = expected + gain[..., :1] * innovation
        velocity = velocity + gain[..., 1:] * innovation[..., 2:4]
        ahead = state[..., 2:4] + velocity  # from -1 to 1 across the frame
        sign = torch.where(ahead.abs() > WALL, -1, 1)
        ahead = (2 * ahead.clamp(-WALL, WALL) - ahead).clamp(-0.99, 0.99)  # reflected by the walls
        where, what = torch.cat([state[..., :2], ahead.atanh()], -1), state[..., 4:]
        for i in slots:
            pyro.sample("pres", dist.Bernoulli(ahead.new_tensor(0.999)))
            pyro.sample("where", dist.Normal(where[..., i, :], positive_scale(self.where_scale)).to_event(1))
            pyro.sample("what", dist.Normal(what[..., i, :], positive_scale(self.what_scale)).to_event(1))
        return torch.cat([state[..., :2], ahead, what, sign * velocity, age + 1], -1)


def main(
    steps: int = 1500, out: Path = Path("runs/prior"), device: str = "auto", threads: int | None = None, seed: int = 0
) -> None:
    """Trains with either prior, and compares what they predict after four frames."""
    set_threads(threads)
    system = replace(BASE.system, propagation=GRUPriorConfig())  # the paper's prior
    experiment = replace(BASE, videos=VIDEOS, scene=replace(BASE.scene, num_slots=2), system=system, test_frames=14)
    experiment = experiment.with_training(steps=steps, seed=seed)
    model, guide = experiment.programs()
    model.propagation_prior = Physics(experiment.scene.what_dim)
    test, errors = experiment.held_out(128), {}
    for name, programs in {"GRU": None, "physics": (model, guide)}.items():
        run = experiment.train(out / name, device=device, programs=programs)
        found, _ = simulate(run.model, run.guide, test, seen=4)
        errors |= {name: found["expected_error_per_frame"], "standing still": found["still_error_per_frame"]}
        print(f"{name:8} {found['expected_error']:.2f} px off ({found['error']:.2f} in a single future, ", end="")
        print(f"{found['still_error']:.2f} standing still), {found['lost']:.1%} lost, {found['data']:.1f} nats a frame")
    draw_errors(errors, out / "errors.png")


if __name__ == "__main__":
    raise SystemExit(run(main))
