# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""`pyro-sqair train`: SQAIR on any file of sequences, made or recorded."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from pyro_sqair.data import RNEMDataset, SequenceDataset
from pyro_sqair.experiments.presets import Preset, file_preset
from pyro_sqair.experiments.videos import FileVideos
from pyro_sqair.infer import check_sites
from pyro_sqair.training import Trainer


@dataclass
class Train:
    """Trains SQAIR, or another system, on a file of sequences, then evaluates it on another and draws what it found.

    The same command continues a run that was interrupted, and draws the pictures of a finished one anew.
    """

    train: tyro.conf.Positional[Path]
    """sequences to learn from: a file made by `pyro-sqair data`, or one of R-NEM's"""
    test: Path | None = None
    """held-out sequences; by default test.h5 beside train.h5, NAME-val.h5 beside NAME.h5, or R-NEM's own"""
    out: Path = Path("runs/train")
    """folder of the run: checkpoint, log, metrics and pictures"""
    slots: int | None = None
    """the most objects the model can hold; by default one more than the file knows of, or 4"""
    glimpse: tuple[int, int] = (20, 20)
    """height and width of a glimpse, pixels"""
    object_size: tuple[float, float] | None = None
    """height and width of the box round an object, pixels, if known; by default learned"""
    object_size_std: float = 0.07
    """how far boxes may be from that, as a share of it, about"""
    what_dim: int = 32
    """size of the appearance latent of an object"""
    hidden: int = 128
    """units of every network"""
    system: Literal["sqair", "conv-sqair", "r-sqair-in", "r-sqair-rmc", "air", "vrnn", "conv-vrnn"] = "sqair"
    """which model and guide"""
    object_costs: tuple[float, float] | None = None
    """nats an object costs in the first frame and in later ones; by default the count prior is learned"""
    steps: int = 5600
    """updates in the whole run"""
    device: str = "auto"
    """"auto" takes a GPU where there is one; else "cpu", "cuda", "cuda:1", ..."""
    threads: int | None = None
    """CPU threads; 1 beside another training"""
    in_memory: bool = True
    """hold the sequences in memory, as bytes; --no-in-memory reads them from the file as they are needed"""
    seed: int = 0
    """of the initial weights, the batches and all draws"""
    sequences: int = 256
    """held-out sequences to evaluate on, at most"""

    def __call__(self) -> None:
        # Here, as it brings SciPy, some 40 MB that the commands of `data` have no use for.
        from pyro_sqair.experiments.report import table, validate, write_report

        if self.sequences < 1 or (self.threads is not None and self.threads < 1):
            raise ValueError(f"expected sequences and threads of at least 1, got {self.sequences} and {self.threads}")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"expected a device that PyTorch finds here, got {self.device}: it finds no GPU")
        torch.set_num_threads(torch.get_num_threads() if self.threads is None else self.threads)
        device = ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        experiment = self.experiment()
        train, held_out = (experiment.source(split, device) for split in ("train", "test"))
        assert isinstance(held_out, SequenceDataset | RNEMDataset)
        test = held_out.read(slice(self.sequences)).to(device)
        few = test.slice(slice(128))

        torch.manual_seed(self.seed)
        model, guide = (program.to(device) for program in experiment.programs())
        check_sites(model, guide, test.frames[:3, :32])
        config = experiment.training
        trainer = Trainer(
            model,
            guide,
            experiment.estimator(),
            train,
            config,
            self.out,
            lambda _: validate(model, guide, few),
            experiment.identity(),
        )
        print(f"training for {config.steps} steps on {device}; Ctrl-C saves and stops")
        if not trainer.complete():
            return print("the same command continues")
        print(f"evaluating {test.frames.shape[1]} sequences and drawing; this takes a minute or two")
        print(table(write_report(trainer, model, guide, test, given_counts=experiment.priced)))
        print(f"pictures: {self.out}/tracks.png, tracks.gif, prediction.png, samples.png, curves.png")

    def experiment(self) -> Preset:
        """The experiment that the arguments describe."""
        videos = FileVideos(self.train, self.test, self.in_memory)
        sizes = self.slots, self.glimpse, self.what_dim, self.hidden
        base = file_preset(videos, *sizes, self.object_costs, self.system, self.object_size)
        scene = dataclasses.replace(base.scene, object_size_std=self.object_size_std)
        training = dataclasses.replace(base.training, steps=self.steps, seed=self.seed)
        return dataclasses.replace(base, scene=scene, training=training)
