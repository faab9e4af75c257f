# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Priors of your own: physics in twenty lines of Pyro, and four others, fitted to what one guide infers.

python examples/custom_prior.py  # trains SQAIR on four balls, then five priors on the guide's draws, a minute each
"""

import math
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch

from pyro_sqair.cli import run, set_threads
from pyro_sqair.evaluation import simulate
from pyro_sqair.experiments import preset
from pyro_sqair.models import SQAIR, GuidedWalkConfig, RandomWalkConfig, ScenePrior, given_discovery
from pyro_sqair.nn.networks import positive_scale
from pyro_sqair.nn.relations import MemoryCoreConfig
from pyro_sqair.training import draw_bank, fit_prior, fitting
from pyro_sqair.viz import draw_errors

WHAT_DIM, SEEN = preset("small-balls").scene.what_dim, 4
WALL = 1 - 2 * 4 / 48  # the largest |centre| of a ball of radius 4 in a box of 48 pixels, from -1 to 1


class Physics(torch.nn.Module):
    """A ball moves straight, keeps its appearance and, if there are walls, is reflected; collisions are not modelled."""

    def __init__(self, walls: bool) -> None:
        super().__init__()
        self.wall = WALL if walls else math.inf
        self.where_scale = torch.nn.Parameter(torch.full((4,), -4.0))  # before positive_scale
        self.what_scale = torch.nn.Parameter(torch.full((WHAT_DIM,), -1.0))
        # Logits for position and velocity at age 1, 2, and 3 or more: the first boxes may be far from their balls.
        self.gain = torch.nn.Parameter(torch.tensor([[2.0, -1.0], [1.0, 0.0], [0.0, -1.0]]))

    def forward(self, previous, memory, slots):
        """memory [*, N, 4 + D + 2 + 1]: expected box and appearance, velocity, age in frames."""
        observed = torch.cat([previous.where[..., :2], previous.where[..., 2:].tanh(), previous.what], -1)
        memory = observed.new_zeros(*observed.shape[:-1], observed.shape[-1] + 3) if memory is None else memory
        expected, velocity, age = memory.split([observed.shape[-1], 2, 1], -1)
        expected = torch.where(age > 0, expected, observed)
        gain = self.gain.sigmoid()[age.clamp(1, 3).long().squeeze(-1) - 1]
        innovation = observed - expected
        state = expected + gain[..., :1] * innovation
        velocity = velocity + gain[..., 1:] * innovation[..., 2:4]
        ahead = state[..., 2:4] + velocity
        sign = torch.where(ahead.abs() > self.wall, -1, 1)
        ahead = (2 * ahead.clamp(-self.wall, self.wall) - ahead).clamp(-0.99, 0.99)  # reflected by the walls
        where, what = torch.cat([state[..., :2], ahead.atanh()], -1), state[..., 4:]
        for i in slots:
            pyro.sample("pres", dist.Bernoulli(ahead.new_tensor(0.999)))
            pyro.sample("where", dist.Normal(where[..., i, :], positive_scale(self.where_scale)).to_event(1))
            pyro.sample("what", dist.Normal(what[..., i, :], positive_scale(self.what_scale)).to_event(1))
        return torch.cat([state[..., :2], ahead, what, sign * velocity, age + 1], -1)


PRIORS = {
    "random walk": lambda: RandomWalkConfig(scale_bias=-3.0).build(WHAT_DIM, 128),
    "GRU": lambda: GuidedWalkConfig(scale_bias=-3.0).build(WHAT_DIM, 128),
    "GRU, relations": lambda: GuidedWalkConfig(scale_bias=-3.0).build(
        WHAT_DIM, 128, MemoryCoreConfig().build(WHAT_DIM)
    ),
    "constant velocity": lambda: Physics(walls=False),
    "physics": lambda: Physics(walls=True),
}


def main(
    steps: int = 1500, fit_steps: int = 1000, out: Path = Path("runs/prior"), threads: int | None = None, seed: int = 0
) -> None:
    """Trains model and guide, fits each prior to the guide's draws, and compares what they predict."""
    set_threads(threads)
    experiment = preset("small-balls").with_training(steps=steps, seed=seed)
    _, model, guide = experiment.train(out / "guide", device="cpu")
    bank, test, errors = draw_bank(guide, experiment.source("train")), experiment.held_out(128), {}
    print(
        f"{'':18}{'log p':>14}{'one future':>13}{'mean of ten':>13}  px after {SEEN} of {experiment.test_frames} frames"
    )
    for name, build in PRIORS.items():
        torch.manual_seed(seed)
        prior = ScenePrior(given_discovery, build(), experiment.scene)
        score = fit_prior(prior, bank, out / name, fitting(fit_steps))
        fitted = SQAIR(model.discovery_prior, prior.propagation_prior, model.renderer, experiment.scene)
        found, _ = simulate(fitted, guide, test, SEEN)
        errors[name] = found["expected_error_per_frame"]
        print(f"{name:18}{score.propagation:7.2f} +-{score.propagation_error:5.2f}", end="")
        print(f"{found['error']:13.2f}{found['expected_error']:13.2f}")
    errors["standing still"] = found["still_error_per_frame"]
    print(f"{'standing still':32}{found['still_error']:13.2f}{found['still_error']:13.2f}\n{out / 'errors.png'}")
    draw_errors(errors, out / "errors.png")


if __name__ == "__main__":
    raise SystemExit(run(main))
