# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Learns to count and track moving digits without labels, then shows what it found.

    python examples/moving_mnist.py                                         # scikit-learn's digits, minutes on a laptop
    python examples/moving_mnist.py --preset moving-mnist --out runs/mnist  # MNIST, published motion, 40 minutes
    python examples/moving_mnist.py --preset paper --out runs/paper         # the published recipe, days on a GPU
    python examples/moving_mnist.py --preset air-digits --out runs/air      # another system of the paper

The same command continues an interrupted run; for a finished one it only evaluates and draws the pictures again.
"""

from pathlib import Path

import pyro_sqair
from pyro_sqair.cli import run
from pyro_sqair.experiments.report import write_report
from pyro_sqair.training.device import set_threads


def main(
    preset: str = "embedded-digits",
    out: Path = Path("runs/demo"),
    device: str = "auto",
    mnist: Path | None = None,
    steps: int | None = None,
    threads: int | None = None,
    seed: int = 0,
    sequences: int = 256,
) -> None:
    """Trains, evaluates, draws.

    Args:
        preset: embedded-digits, moving-mnist, paper, or {conv-sqair,air,vrnn,conv-vrnn}-{digits,mnist}
        out: folder of the run: experiment, weights, checkpoint, log, metrics and pictures
        device: "auto" takes a GPU where there is one; else "cpu", "cuda", "cuda:1", ...
        mnist: folder with MNIST's four .gz files; without it they are downloaded
        steps: train for another number of steps than the preset's
        threads: CPU threads; 1 beside another training
        seed: of the initial weights, the data and all draws
        sequences: held-out sequences to evaluate on
    """
    set_threads(threads)
    experiment = pyro_sqair.preset(preset).with_training(steps=steps, seed=seed)
    experiment.train(out, device=device, mnist=mnist)
    run = pyro_sqair.load(out, device)  # the experiment, its model and its guide: the folder is enough, at any time
    write_report(run, out, sequences, mnist)


if __name__ == "__main__":
    raise SystemExit(run(main))
