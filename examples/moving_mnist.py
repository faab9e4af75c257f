# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Learns to count and track moving digits without a label, then shows what it found.

    python examples/moving_mnist.py                                       # scikit-learn's digits, minutes on a laptop
    python examples/moving_mnist.py --preset moving-mnist --out runs/mnist  # MNIST, published motion, 40 minutes
    python examples/moving_mnist.py --preset paper --out runs/paper       # the published recipe, days on a GPU
    python examples/moving_mnist.py --preset conv-sqair-digits --out runs/conv     # another system of the paper

A second run with the same --out continues where the first one stopped, or draws the pictures anew.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from pyro_sqair.data import held_out
from pyro_sqair.experiments.presets import preset
from pyro_sqair.experiments.report import table, validate, write_report
from pyro_sqair.infer import check_sites
from pyro_sqair.training import Trainer


@dataclass
class Arguments:
    """Command line."""

    preset: str = "embedded-digits"
    """which experiment: embedded-digits, moving-mnist, paper, or {conv-sqair,air,vrnn,conv-vrnn}-{digits,mnist}"""
    out: Path = Path("runs/demo")
    """folder of the run: checkpoint, log, metrics and pictures"""
    device: str = "auto"
    """"auto" takes a GPU where there is one; else "cpu", "cuda", "cuda:1", ..."""
    mnist: Path | None = None
    """folder with MNIST's four .gz files; without it they are downloaded"""
    steps: int | None = None
    """train for another number of steps than the preset's"""
    threads: int | None = None
    """CPU threads; 1 beside another training"""
    seed: int = 0
    """of the initial weights, the data and all draws"""
    sequences: int = 256
    """held-out sequences to evaluate on"""


def main(args: Arguments) -> None:
    """Trains, evaluates, draws."""
    torch.set_num_threads(torch.get_num_threads() if args.threads is None else args.threads)
    experiment = preset(args.preset)
    steps = experiment.training.steps if args.steps is None else args.steps
    config = dataclasses.replace(experiment.training, seed=args.seed, steps=steps)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    train = experiment.source("train", device, args.mnist)
    unseen = experiment.source("test", "cpu", args.mnist)  # made on the CPU: the same on every machine
    test, few = (held_out(unseen, n, 10, seed).to(device) for n, seed in ((args.sequences, 1), (128, 2)))

    torch.manual_seed(args.seed)
    model, guide = (program.to(device) for program in experiment.programs())
    check_sites(model, guide, test.frames[:3, :32])

    elbo = experiment.estimator()  # VIMCO for all that know objects
    trainer = Trainer(
        model, guide, elbo, train, config, args.out, lambda _: validate(model, guide, few), experiment.identity()
    )
    print(f"training for {steps} steps on {device}; Ctrl-C saves and stops")
    if not trainer.complete():
        return print("the same command continues")
    print(f"evaluating {args.sequences} sequences and drawing; this takes a minute or two")
    print(table(write_report(trainer, model, guide, test, given_counts=experiment.priced)))
    print(f"pictures: {args.out}/tracks.png, tracks.gif, prediction.png, samples.png, curves.png")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
