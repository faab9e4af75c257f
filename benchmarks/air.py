# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Trains the AIR of examples/air_estimators.py with each estimator, and draws count accuracy against CPU time.

python benchmarks/air.py                        # four trainings, two at a time: runs/air/estimators.png and a table
"""

import functools
import multiprocessing
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import torch
import tyro

from pyro_sqair.data import MovingDigits, embedded_digits, gentle_motion
from pyro_sqair.infer import evaluate_bounds, mean_over_data

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
from air_estimators import AIR, ESTIMATORS

COLORS = dict(zip(ESTIMATORS, ("#777777", "#0072B2", "#009E73", "#CC79A7"), strict=True))


def train(name: str, seconds: float) -> tuple[list[float], list[float], int, str]:
    """CPU seconds and count accuracies, measured 30 times, the number of steps, and log p(x) with its error."""
    torch.set_num_threads(1)
    pyro.enable_validation(False)
    pyro.clear_param_store()  # a process trains several
    pyro.set_rng_seed(0)
    source, unseen = (MovingDigits(embedded_digits(split), gentle_motion()) for split in ("train", "test"))
    test = unseen.sample(500, 1, torch.Generator().manual_seed(1))
    images, counts = test.frames[0, :, 0], test.count[0]
    air, generator = AIR(), torch.Generator().manual_seed(0)
    svi = pyro.infer.SVI(air.model, air.guide, pyro.optim.ClippedAdam({"lr": 1e-3}), ESTIMATORS[name])
    times: list[float] = []
    accuracies: list[float] = []
    spent, steps = 0.0, 0
    while True:
        if spent >= seconds * len(times) / 30:
            accuracies.append((air.guide(images) == counts).float().mean().item())
            times.append(spent)
            print(f"{name:>20}: {spent:4.0f} of {seconds:.0f} s, count accuracy {accuracies[-1]:.3f}", flush=True)
        if spent >= seconds:
            bound = mean_over_data(evaluate_bounds(air.model, air.guide, images, num_particles=100, chunk=5).iwae)
            return times, accuracies, steps, f"{bound.mean:.1f} ± {bound.standard_error:.1f}"
        began = time.process_time()
        svi.step(source.sample(64, 1, generator).frames[0, :, 0])
        spent, steps = spent + time.process_time() - began, steps + 1


def main(seconds: float = 60.0, jobs: int = 2, out: Path = Path("runs/air")) -> None:
    """Trains `jobs` guides at a time on one core each, for `seconds` of CPU time each, and writes into `out`."""
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        curves = pool.map(functools.partial(train, seconds=seconds), ESTIMATORS, chunksize=1)
    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=120, layout="constrained")
    print("\n| estimator | steps | count accuracy | 0.9 after | log p(x), IWAE K=100 |\n|---|---|---|---|---|")
    for name, (times, accuracies, steps, bound) in zip(ESTIMATORS, curves, strict=True):
        axes.plot(times, accuracies, color=COLORS[name], label=f"{name}: {accuracies[-1]:.2f}")
        reached = next((f"{t:.0f} s" for t, a in zip(times, accuracies, strict=True) if a >= 0.9), "never")
        print(f"| `{name}` | {steps} | {accuracies[-1]:.3f} | {reached} | {bound} |")
    axes.set(xlabel="CPU time on one core, seconds", ylabel="count accuracy on unseen images", ylim=(0, 1))
    axes.set(title="AIR in plain Pyro: the same model, data, seed and optimiser", xlim=(0, seconds))
    axes.legend(frameon=False)
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "estimators.png")


if __name__ == "__main__":
    tyro.cli(main)
