# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The sequences of an experiment: generated, or read from files."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from pyro_sqair.data import (
    BallsConfig,
    BouncingBalls,
    DigitImages,
    Fingerprint,
    MotionConfig,
    MovingDigits,
    RNEMDataset,
    SequenceDataset,
    Sequences,
    embedded_digits,
    four_balls,
    held_out,
    is_rnem,
    mnist_digits,
    only_visible,
    open_sequences,
    published_motion,
)
from pyro_sqair.training.comparison import check_same

RNEM_SPLITS = {"train": "training", "test": "test"}  # names of the splits in R-NEM files


@dataclass(frozen=True)
class DigitVideos:
    """Generated sequences of moving digits.

    Attributes:
        digits: images of digits: "embedded" (scikit-learn's) or "mnist".
        motion: how they move.
    """

    digits: Literal["embedded", "mnist"] = "mnist"
    motion: MotionConfig = field(default_factory=published_motion)

    def __post_init__(self) -> None:
        if self.digits not in ("embedded", "mnist"):
            raise ValueError(f"expected digits 'embedded' or 'mnist', got {self.digits!r}")

    @property
    def most_objects(self) -> int:
        """The most objects in a video."""
        return self.motion.max_digits

    def source(self, split: str, device: torch.device | str = "cpu", mnist: Path | None = None) -> MovingDigits:
        """See :meth:`Experiment.source`."""
        digits: DigitImages = embedded_digits(split) if self.digits == "embedded" else mnist_digits(split, mnist)
        return MovingDigits(digits, self.motion, device)

    def held_out(self, sequences: int, frames: int, seed: int, mnist: Path | None = None) -> Sequences:
        """See :meth:`Experiment.held_out`."""
        return held_out(self.source("test", "cpu", mnist), sequences, frames, seed)


@dataclass(frozen=True)
class BallVideos:
    """Generated sequences of bouncing balls; the splits differ in their seeds only.

    Attributes:
        balls: the configuration of the simulator.
    """

    balls: BallsConfig = field(default_factory=four_balls)

    @property
    def most_objects(self) -> int:
        """The most objects in a video."""
        return self.balls.max_balls

    def source(self, split: str, device: torch.device | str = "cpu", mnist: Path | None = None) -> BouncingBalls:
        """See :meth:`Experiment.source`."""
        return BouncingBalls(self.balls, device)

    def held_out(self, sequences: int, frames: int, seed: int, mnist: Path | None = None) -> Sequences:
        """See :meth:`Experiment.held_out`; balls that are not visible are absent."""
        return only_visible(held_out(self.source("test"), sequences, frames, seed))


@dataclass(frozen=True)
class FileVideos:
    """Sequences from files.

    Attributes:
        train: a file of sequences, or an R-NEM file.
        test: the same, for testing; by default test.h5 beside train.h5, NAME-val.h5 beside NAME.h5, or the test split
            of the R-NEM file.
        in_memory: whether to hold a whole file of sequences in memory, as bytes.
        fingerprint: of the file to train on; None if it has not been read.
    """

    train: Path
    test: Path | None = None
    in_memory: bool = True
    fingerprint: Fingerprint | None = None

    most_objects = 0  # unknown until the files are read; see file_experiment

    def __post_init__(self) -> None:
        object.__setattr__(self, "train", Path(self.train).absolute())
        object.__setattr__(self, "test", self.test and Path(self.test).absolute())

    def path(self, split: str) -> Path:
        """The file of a split, "train" or "test".

        Raises:
            FileNotFoundError: if there is no such file.
        """
        path = self.train
        if split == "test" and self.test is not None:
            path = self.test
        elif split == "test" and not is_rnem(self.train):
            name = "test" if self.train.stem == "train" else f"{self.train.stem}-val"
            path = self.train.with_name(name + self.train.suffix)
        if not path.exists():
            option = "" if split == "train" or self.test else "; pass another as `test` or by --test"
            raise FileNotFoundError(f"expected sequences to {split} on in {path}, found no such file{option}")
        return path

    def fingerprinted(self) -> FileVideos:
        """The same videos with the fingerprint of the file to train on, which is read again.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is damaged, or has another fingerprint than these videos; lists what differs.
        """
        path = self.path("train")
        found = Fingerprint.of(open_sequences(path, RNEM_SPLITS["train"]))
        if self.fingerprint is not None:
            check_same("the training sequences of this experiment", asdict(self.fingerprint), asdict(found), path)
        return replace(self, fingerprint=found)

    def source(
        self, split: str, device: torch.device | str = "cpu", mnist: Path | None = None
    ) -> SequenceDataset | RNEMDataset:
        """See :meth:`Experiment.source`."""
        return open_sequences(self.path(split), RNEM_SPLITS[split], self.in_memory, device)

    def held_out(self, sequences: int, frames: int, seed: int, mnist: Path | None = None) -> Sequences:
        """The first sequences of the test file, with all their frames; see :meth:`Experiment.held_out`."""
        return open_sequences(self.path("test"), "test").read(slice(sequences))


Videos = DigitVideos | BallVideos | FileVideos
