# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Where the sequences of an experiment come from: made on the fly, or read from files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch

from pyro_sqair.data import (
    BallsConfig,
    BouncingBalls,
    DigitImages,
    MotionConfig,
    MovingDigits,
    RNEMDataset,
    SequenceDataset,
    Source,
    embedded_digits,
    is_rnem,
    mnist_digits,
    open_sequences,
)


class Videos(Protocol):
    """Where the sequences of an experiment come from."""

    def source(self, split: str, device: torch.device | str = "cpu", mnist: Path | None = None) -> Source:
        """The sequences of a split, "train" or "test", made or held on ``device``."""
        ...


@dataclass(frozen=True)
class DigitVideos:
    """Moving digits, made on the fly.

    Attributes:
        digits: where the digits come from, "embedded" (scikit-learn's) or "mnist".
        motion: how they move.
    """

    digits: Literal["embedded", "mnist"]
    motion: MotionConfig

    @property
    def most_objects(self) -> int:
        """The most that a video may hold."""
        return self.motion.max_digits

    def source(self, split: str, device: torch.device | str = "cpu", mnist: Path | None = None) -> MovingDigits:
        """See :meth:`Preset.source`."""
        digits: DigitImages = embedded_digits(split) if self.digits == "embedded" else mnist_digits(split, mnist)
        return MovingDigits(digits, self.motion, device)


@dataclass(frozen=True)
class BallVideos:
    """Bouncing balls, made on the fly; the splits differ in their seeds only.

    Attributes:
        balls: what they are like.
    """

    balls: BallsConfig

    @property
    def most_objects(self) -> int:
        """The most that a video may hold."""
        return self.balls.max_balls

    def source(self, split: str, device: torch.device | str = "cpu", mnist: Path | None = None) -> BouncingBalls:
        """See :meth:`Preset.source`."""
        return BouncingBalls(self.balls, device)


@dataclass(frozen=True)
class FileVideos:
    """Sequences from files, made or recorded.

    Attributes:
        train: a file of sequences, or one of R-NEM's.
        test: the same, for testing; by default test.h5 beside train.h5, NAME-val.h5 beside NAME.h5, or the test part
            of R-NEM's file.
        in_memory: whether to hold all of a file of sequences in memory, as bytes.
    """

    train: Path
    test: Path | None = None
    in_memory: bool = True

    def path(self, split: str) -> Path:
        """The file of a split, "train" or "test"."""
        if split == "train":
            return self.train
        if self.test is not None:
            return self.test
        if is_rnem(self.train):
            return self.train
        name = "test" if self.train.stem == "train" else f"{self.train.stem}-val"
        return self.train.with_name(name + self.train.suffix)

    def source(
        self, split: str, device: torch.device | str = "cpu", mnist: Path | None = None
    ) -> SequenceDataset | RNEMDataset:
        """See :meth:`Preset.source`."""
        path = self.path(split)
        if not path.exists():
            option = "" if split == "train" or self.test else "; name another by --test"
            raise FileNotFoundError(f"expected sequences to {split} on in {path}, found no such file{option}")
        return open_sequences(path, {"train": "training", "test": "test"}[split], self.in_memory, device)
