# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""`pyro-sqair train`: trains a system on a file of sequences."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from pyro_sqair.experiments import Experiment, FileVideos, file_experiment
from pyro_sqair.training.device import set_threads


@dataclass
class Train:
    """Trains SQAIR or another system on a file of sequences, evaluates it on test sequences and draws pictures.

    The same command continues an interrupted run, and evaluates a finished one again.
    """

    train: tyro.conf.Positional[Path]
    """training sequences: a file made by `pyro-sqair data`, or an R-NEM file"""
    test: Path | None = None
    """test sequences; by default test.h5 beside train.h5, NAME-val.h5 beside NAME.h5, or the test split of R-NEM"""
    out: Path | None = None
    """folder of the run; by default runs/NAME for NAME.h5, and runs/FOLDER for FOLDER/train.h5"""
    slots: int | None = None
    """maximum number of objects; by default one more than in any annotated frame, or 4 without annotations"""
    glimpse: tuple[int, int] = (20, 20)
    """height and width of a glimpse, pixels"""
    object_size: tuple[float, float] | None = None
    """height and width of the box of an object, pixels; by default learned"""
    object_size_std: float = 0.07
    """approximate standard deviation of the log size of boxes, with --object-size"""
    what_dim: int = 32
    """size of the appearance latent of an object"""
    hidden: int = 128
    """units of every network"""
    system: Literal["sqair", "conv-sqair", "r-sqair-in", "r-sqair-rmc", "air", "vrnn", "conv-vrnn"] = "sqair"
    """which model and guide"""
    object_costs: tuple[float, float] | None = None
    """nats per object discovered in the first frame and in later ones; by default the count prior is learned"""
    steps: int = 5600
    """number of updates of the whole run"""
    learning_rate: float | None = None
    """learning rate after the warm-up, which falls to a fiftieth; lower it if training diverges; by default 0.001"""
    device: str = "auto"
    """"auto" for a GPU if there is one; or "cpu", "cuda", "cuda:1", ..."""
    threads: int | None = None
    """number of CPU threads; by default PyTorch's"""
    in_memory: bool = True
    """hold the sequences in memory, as bytes; --no-in-memory reads them from the file when needed"""
    seed: int = 0
    """seed of the initial weights, the batches and all draws"""
    sequences: int = 256
    """maximum number of test sequences"""

    def __call__(self) -> None:
        from pyro_sqair.experiments.report import write_report  # imports SciPy and matplotlib

        if self.sequences < 1:
            raise ValueError(f"expected sequences of at least 1, got {self.sequences}")
        set_threads(self.threads)
        run = self.experiment().train(self.folder, device=self.device)
        write_report(run, self.folder, self.sequences)

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        train = Path(os.path.abspath(self.train))  # without "..", and unlike resolve() with the names of links
        return self.out or Path("runs") / (train.parent.name if train.stem == "train" else train.stem)

    def experiment(self) -> Experiment:
        """The experiment that the arguments describe."""
        videos = FileVideos(self.train, self.test, self.in_memory)
        sizes = self.slots, self.glimpse, self.what_dim, self.hidden
        objects = self.object_costs, self.system, self.object_size, self.object_size_std
        experiment = file_experiment(videos, *sizes, *objects).with_training(steps=self.steps, seed=self.seed)
        if self.learning_rate is None:
            return experiment
        fall = experiment.training.final_learning_rate / experiment.training.learning_rate
        rates = {"learning_rate": self.learning_rate, "final_learning_rate": fall * self.learning_rate}
        return experiment.with_training(**rates)
