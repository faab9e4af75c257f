# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""`pyro-sqair fit-prior`: fits the prior of a trained run alone."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from pyro_sqair.experiments import fit_run, load
from pyro_sqair.training.device import set_threads


@dataclass
class FitPrior:
    """Fits the prior of a trained run to scenes that its guide infers, without images, and writes a new run.

    The guide and the renderer do not change. The same command continues an interrupted fit.
    """

    run: tyro.conf.Positional[Path]
    """folder of a trained run of SQAIR; it is not changed"""
    out: Path | None = None
    """folder of the new run; by default RUN-PROPAGATION-RELATIONS of those that are given, or else RUN-fitted"""
    propagation: str | None = None
    """propagation prior: gru, random-walk, guided-walk, or MODULE:CALLABLE of your own, importable from the current
    folder, where a class is called with what_dim; by default that of the run"""
    relations: Literal["none", "in", "rmc"] | None = None
    """relations of objects in the propagation prior: none, interaction network or relational memory core; by default
    those of the run"""
    part: Literal["both", "discovery", "propagation"] = "both"
    """which part of the prior to fit"""
    steps: int = 1500
    """number of updates"""
    scenes: int = 4000
    """number of scenes that the guide infers; a tenth as many of test videos are held out"""
    length: int | None = None
    """frames of a scene; by default the longest sequences of the run's training, at most 12"""
    seed: int = 0
    """seed of the scenes, the batches and the initial weights"""
    device: str = "auto"
    """"auto" for a GPU if there is one; or "cpu", "cuda", "cuda:1", ..."""
    threads: int | None = None
    """number of CPU threads; by default PyTorch's"""
    mnist: Path | None = None
    """folder with the files of MNIST, if the run needs them; by default they are downloaded once"""
    sequences: int = 256
    """maximum number of test sequences, on which both runs are evaluated"""

    def __call__(self) -> None:
        from pyro_sqair.experiments.report import evaluate  # imports SciPy and matplotlib

        if self.sequences < 1:
            raise ValueError(f"expected sequences of at least 1, got {self.sequences}")
        set_threads(self.threads)
        sys.path.append("")  # the current folder, as for `python -m`, but after all others
        after = fit_run(
            self.run,
            self.folder,
            propagation=self.propagation,
            relations=self.relations,
            part=self.part,
            steps=self.steps,
            scenes=self.scenes,
            length=self.length,
            seed=self.seed,
            device=self.device,
            mnist=self.mnist,
        )
        test = after.experiment.held_out(self.sequences, mnist=self.mnist)
        print(f"{'':8}{'ELBO':>10}{'IWAE K=5':>10}{'KL(q||p)':>10}  nats, {len(test.labels)} test sequences")
        for name, (_, model, guide) in {"before": load(self.run, self.device), "after": after}.items():
            found = evaluate(model, guide, test, num_particles=(5,), progress=True)
            print(f"{name:8}{found['elbo']:10.1f}{found['iwae_5']:10.1f}{found['kl']:10.1f}")
        print(self.folder)
        if after.experiment.custom:
            print("to load it, import the prior: load(run, programs=experiment.system.programs(experiment.scene))")

    @property
    def folder(self) -> Path:
        """The folder of the new run."""
        words = [word.rpartition(":")[2] for word in (self.propagation, self.relations) if word is not None]
        run = self.run if self.run.name else self.run.absolute()  # "." has no name
        return self.out or run.with_name("-".join([run.name, *(words or ["fitted"])]))
