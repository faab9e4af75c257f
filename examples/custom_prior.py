# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Priors of your own: physics in twenty lines of Pyro, beside four others, all fitted to what one guide infers.

python examples/custom_prior.py  # trains SQAIR on four balls, then five priors on the guide's draws, a minute each
"""

from pathlib import Path

import pyro
import pyro.distributions as dist
import torch

from pyro_sqair.cli import run
from pyro_sqair.evaluation import simulate
from pyro_sqair.experiments import preset
from pyro_sqair.models import SQAIR, GuidedWalkConfig, RandomWalkConfig, ScenePrior, given_discovery
from pyro_sqair.nn.networks import positive_scale
from pyro_sqair.nn.relations import MemoryCoreConfig
from pyro_sqair.training import draw_bank, fit_prior, fitting
from pyro_sqair.training.device import set_threads
from pyro_sqair.viz import draw_errors

D, SEEN, WALL = preset("small-balls").scene.what_dim, 4, 1 - 2 * 4 / 48  # WALL: largest |centre| of a ball, in 0...1


class Physics(torch.nn.Module):
    """Balls move straight and keep their size and appearance; walls reflect them; they pass through each other."""

    def __init__(self, what_dim: int = D, wall: float = WALL) -> None:
        super().__init__()
        self.wall = wall
        # At age 0, 1, and 2 or more: scales before positive_scale; logits of the gains of centre and velocity.
        self.scales = torch.nn.Parameter(torch.tensor([[-5.0] * 2 + [-2.5] * 2 + [0.5] * what_dim] * 3))
        self.gains = torch.nn.Parameter(torch.zeros(3, 2))

    def forward(self, previous, memory, slots):
        """memory [*, N, 2 + 2 + 1]: expected centre, velocity, age in frames."""
        seen = previous.where[..., 2:].tanh()
        memory = seen.new_zeros(*seen.shape[:-1], 5) if memory is None else memory
        expected, velocity, age = memory.split([2, 2, 1], -1)
        row = age.clamp(max=2).long().squeeze(-1)
        gain, scales = self.gains.sigmoid()[row], positive_scale(self.scales)[row]
        surprise = torch.where(age > 0, seen - expected, 0)
        velocity = velocity + gain[..., 1:] * surprise
        ahead = seen - (1 - gain[..., :1]) * surprise + velocity
        bounced = ahead.abs() > self.wall
        ahead = (2 * ahead.clamp(-self.wall, self.wall) - ahead).clamp(-0.99, 0.99)
        where = torch.cat([previous.where[..., :2], ahead.atanh()], -1)
        for i in slots:
            pyro.sample("pres", dist.Bernoulli(ahead.new_tensor(0.999)))
            pyro.sample("where", dist.Normal(where[..., i, :], scales[..., i, :4]).to_event(1))
            pyro.sample("what", dist.Normal(previous.what[..., i, :], scales[..., i, 4:]).to_event(1))
        return torch.cat([ahead, torch.where(bounced, -velocity, velocity), age + 1], -1)


def main(steps: int = 1500, fit: int = 1000, out: Path = Path("runs/prior"), threads: int | None = None) -> None:
    """Trains a model and its guide, fits priors to the guide's draws, and compares what they predict."""
    set_threads(threads)
    experiment = preset("small-balls").with_training(steps=steps)
    _, model, guide = experiment.train(out / "guide", device="cpu")
    bank, test, errors = draw_bank(guide, experiment.source("train")), experiment.held_out(128), {}
    torch.manual_seed(0)
    walk, still = GuidedWalkConfig(scale_bias=-3.0), RandomWalkConfig(scale_bias=-3.0)
    priors = {"random walk": still.build(D, 128), "GRU": walk.build(D, 128), "constant velocity": Physics(D, torch.inf)}
    priors |= {"GRU, relations": walk.build(D, 128, MemoryCoreConfig().build(D)), "physics": Physics()}
    rows = [f"{'':20}{'log p':>15}{'one future':>12}{'mean of ten':>12}  pixels, after {SEEN} frames"]
    for name, prior in priors.items():
        score = fit_prior(ScenePrior(given_discovery, prior, experiment.scene), bank, out / name, fitting(fit))
        found, _ = simulate(SQAIR(model.discovery_prior, prior, model.renderer, experiment.scene), guide, test, SEEN)
        errors[name] = found["expected_error_per_frame"]
        log_p = f"{score.propagation:.2f} +- {score.propagation_error:.2f}"
        rows.append(f"{name:20}{log_p:>15}{found['error']:12.2f}{found['expected_error']:12.2f}")
    print(*rows, f"{'standing still':35}{found['still_error']:12.2f}{found['still_error']:12.2f}", sep="\n")
    draw_errors(errors | {"standing still": found["still_error_per_frame"]}, out / "errors.png")


if __name__ == "__main__":
    raise SystemExit(run(main))
