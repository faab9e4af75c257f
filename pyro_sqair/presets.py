# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Presets: everything that makes up an experiment, under one name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from pyro_sqair.data import (
    DigitImages,
    MotionConfig,
    MovingDigits,
    Source,
    embedded_digits,
    gentle_motion,
    mnist_digits,
    published_motion,
)
from pyro_sqair.guides import SQAIRGuide
from pyro_sqair.models import SQAIR, FixedCount, mlp_renderer
from pyro_sqair.networks import SetEncoder
from pyro_sqair.scene import SceneConfig
from pyro_sqair.training import TrainingConfig, published


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

    def source(self, split: str, device: torch.device | str = "cpu", mnist: Path | None = None) -> MovingDigits:
        """See :meth:`Preset.source`."""
        digits: DigitImages = embedded_digits(split) if self.digits == "embedded" else mnist_digits(split, mnist)
        return MovingDigits(digits, self.motion, device)


@dataclass(frozen=True)
class Preset:
    """An experiment.

    Attributes:
        name: what it is called on the command line.
        videos: what to learn from, and to be tested on.
        scene: sizes of images, glimpses and latents.
        hidden_size: units of every network.
        decoder_size: units of the glimpse decoder; None for ``hidden_size``.
        output_scale: where the learned scale of the decoder's output starts.
        object_costs: nats an object costs in the first frame and in later ones (a fixed count prior); None for the
            paper's learned count prior.
        training: how to train.
    """

    name: str
    videos: Videos
    scene: SceneConfig
    hidden_size: int
    decoder_size: int | None = None
    output_scale: float = 0.25
    object_costs: tuple[float, float] | None = None
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree on to be of this model."""
        return {
            "program": "sqair",
            "scene": asdict(self.scene),
            "hidden_size": self.hidden_size,
            "decoder_size": self.decoder_size,
            "object_costs": self.object_costs,
        }

    def source(self, split: str, device: torch.device | str = "cpu", mnist: Path | None = None) -> Source:
        """The sequences of a split.

        Args:
            split: "train" or "test".
            device: where sequences are made or held.
            mnist: folder with MNIST's files, for an experiment on them; None downloads them.
        """
        return self.videos.source(split, device, mnist)

    def programs(self) -> tuple[SQAIR, SQAIRGuide]:
        """A model and its guide with fresh weights; they share the encoder of propagated objects."""
        encoder = SetEncoder(self.scene.what_dim, self.hidden_size)
        count = None if self.object_costs is None else FixedCount(*self.object_costs)
        renderer = mlp_renderer(self.scene, self.decoder_size or self.hidden_size, self.output_scale)
        model = SQAIR.build(self.scene, self.hidden_size, encoder, count, renderer)
        return model, SQAIRGuide.build(self.scene, self.hidden_size, encoder)


def embedded_digits_preset() -> Preset:
    """Up to two of scikit-learn's digits in gentle motion: learns to count and track in minutes on two CPU cores."""
    return Preset(
        name="embedded-digits",
        videos=DigitVideos("embedded", gentle_motion()),
        scene=SceneConfig(num_slots=2, what_dim=16),
        hidden_size=128,
        object_costs=(5.0, 10.0),
        training=TrainingConfig(steps=2800, curriculum=((3, 0.75), (6, 0.25)), ema_decay=0.998, validate_every=300),
    )


def moving_mnist_preset() -> Preset:
    """MNIST with the published motion, for 40 minutes on two CPU cores."""
    return Preset(
        name="moving-mnist",
        videos=DigitVideos("mnist", published_motion()),
        scene=SceneConfig(num_slots=3, what_dim=32),
        hidden_size=128,
        decoder_size=256,
        output_scale=1.0,
        training=TrainingConfig(
            steps=7700,
            curriculum=((3, 0.20), (4, 0.10), (6, 0.25), (10, 0.45)),
            ema_decay=0.998,
        ),
    )


def paper_preset() -> Preset:
    """The published experiment and recipe (Kosiorek et al. 2018, Appendix D): days on a GPU."""
    return Preset(
        name="paper",
        videos=DigitVideos("mnist", published_motion()),
        scene=SceneConfig(num_slots=3, what_dim=50),
        hidden_size=256,
        training=published(),
    )


PRESETS: dict[str, Callable[[], Preset]] = {
    "embedded-digits": embedded_digits_preset,
    "moving-mnist": moving_mnist_preset,
    "paper": paper_preset,
}


def preset(name: str) -> Preset:
    """Looks a preset up.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in PRESETS:
        raise ValueError(f"expected a preset among {sorted(PRESETS)}, got {name!r}")
    return PRESETS[name]()
