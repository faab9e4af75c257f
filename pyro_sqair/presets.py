# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Presets: everything that makes up an experiment, under one name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pyro.infer import ELBO

from pyro_sqair.data import BallsConfig, Source, four_balls, gentle_motion, published_motion
from pyro_sqair.program import Program
from pyro_sqair.scene import SceneConfig
from pyro_sqair.systems import SYSTEMS, GuidedWalk, Interaction, Memory, Recurrent, SQAIRSystem, System
from pyro_sqair.training import TrainingConfig, published
from pyro_sqair.videos import BallVideos, DigitVideos, FileVideos, Videos


@dataclass(frozen=True)
class Preset:
    """An experiment.

    Attributes:
        name: what it is called on the command line.
        videos: what to learn from, and to be tested on.
        scene: sizes of images, glimpses and latents.
        system: which model and guide.
        training: how to train.
    """

    name: str
    videos: Videos
    scene: SceneConfig
    system: System
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        most = getattr(self.videos, "most_objects", 0)
        if most > self.scene.num_slots:
            raise ValueError(
                f"expected at least {most} slots, for as many objects as a video may hold, got {self.scene.num_slots}"
            )

    @property
    def priced(self) -> bool:
        """Whether the prior of the number of objects is a price, and no guess of how many there are."""
        return getattr(self.system, "object_costs", None) is not None

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree on to be of this model."""
        return {"program": self.system.name, "scene": asdict(self.scene)} | self.system.settings()

    def source(self, split: str, device: torch.device | str = "cpu", mnist: Path | None = None) -> Source:
        """The sequences of a split.

        Args:
            split: "train" or "test".
            device: where sequences are made or held.
            mnist: folder with MNIST's files, for an experiment on them; None downloads them.
        """
        return self.videos.source(split, device, mnist)

    def programs(self) -> tuple[Program, Program]:
        """A model and its guide with fresh weights."""
        return self.system.programs(self.scene)

    def estimator(self) -> ELBO:
        """What to train them with."""
        return self.system.estimator(self.training.num_particles)


def embedded_digits_preset() -> Preset:
    """Up to two of scikit-learn's digits in gentle motion: learns to count and track in minutes on two CPU cores."""
    return Preset(
        name="embedded-digits",
        videos=DigitVideos("embedded", gentle_motion()),
        scene=SceneConfig(num_slots=2, what_dim=16),
        system=SQAIRSystem(hidden_size=128, object_costs=(5.0, 10.0)),
        training=TrainingConfig(steps=2800, curriculum=((3, 0.75), (6, 0.25)), ema_decay=0.998, validate_every=300),
    )


def moving_mnist_preset() -> Preset:
    """MNIST with the published motion, for 40 minutes on two CPU cores."""
    return Preset(
        name="moving-mnist",
        videos=DigitVideos("mnist", published_motion()),
        scene=SceneConfig(num_slots=3, what_dim=32),
        system=SQAIRSystem(hidden_size=128, decoder_size=256, output_scale=1.0),
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
        system=SQAIRSystem(hidden_size=256),
        training=published(),
    )


def small_balls_preset(relations: Interaction | Memory | None = None) -> Preset:
    """Four balls of one kind in a smaller box, all of it in sight: minutes on two CPU cores.

    The boxes of balls are known to be little larger than balls, and objects to stay about where they are but for what
    a GRU says. Without either, boxes end up far too large, and the GRU first has to learn that things stay.

    Args:
        relations: what balls know of each other (R-SQAIR); None for SQAIR.
    """
    balls = BallsConfig(box=48, crop=None, radii=(4.0,), masses=(1.0,), speed=2.0)
    dynamics = GuidedWalk(scale_bias=-3.0)
    return Preset(
        name="small-balls",
        videos=BallVideos(balls),
        scene=SceneConfig(4, what_dim=5, image_size=(48, 48), glimpse_size=(12, 12), object_size=(12.0, 12.0)),
        system=SQAIRSystem(128, output_scale=1.0, object_costs=(0.0, 10.0), relations=relations, propagation=dynamics),
        training=TrainingConfig(
            steps=1500,
            learning_rate_changes=((0, 2e-3), (850, 6e-4)),  # on eight frames the first rate diverges
            curriculum=((3, 0.35), (8, 0.65)),
            ema_decay=0.998,
            validate_every=300,
        ),
    )


def balls_preset(relations: Interaction | Memory | None = None) -> Preset:
    """The experiment of R-SQAIR (Stanić & Schmidhuber 2019, Section 3), for a GPU: four balls, 50x50 of 64x64 pixels.

    The paper's curriculum, one frame more every 10,000 steps from 3 to 10, is in shares of work; its learning rate is
    SQAIR's.

    Args:
        relations: what balls know of each other (R-SQAIR); None for SQAIR.
    """
    lengths = range(3, 11)
    work = sum(lengths)
    return Preset(
        name="balls",
        videos=BallVideos(four_balls()),
        scene=SceneConfig(num_slots=4, what_dim=5),
        system=SQAIRSystem(256, relations=relations),
        training=replace(published(), steps=80_000, curriculum=tuple((n, n / work) for n in lengths)),
    )


def file_preset(
    videos: FileVideos,
    num_slots: int | None = None,
    glimpse_size: tuple[int, int] = (20, 20),
    what_dim: int = 32,
    hidden_size: int = 128,
    object_costs: tuple[float, float] | None = None,
    system: str = "sqair",
    object_size: tuple[float, float] | None = None,
) -> Preset:
    """A system on sequences from a file: sizes are the file's, the recipe is that of moving MNIST.

    Args:
        videos: the files.
        num_slots: the most objects N that the model can hold; None for one more than the file knows of, or 4 if it
            knows of none.
        glimpse_size: (h, w) in pixels; about as large as an object.
        what_dim: the dimension D of ``what``.
        hidden_size: units of every network.
        object_costs: see :class:`~pyro_sqair.systems.SQAIRSystem`.
        system: a name among :data:`~pyro_sqair.systems.SYSTEMS`.
        object_size: see :class:`~pyro_sqair.scene.SceneConfig`. Objects are then expected to stay as large as they are,
            by a guided walk instead of the paper's recurrent prior, whose boxes start out with half the image's sides.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged, or the two are of different sizes.
    """
    if system not in SYSTEMS:
        raise ValueError(f"expected a system among {sorted(SYSTEMS)}, got {system!r}")
    if system.endswith("vrnn") and (object_costs or object_size):
        raise ValueError(f"expected no prices or sizes of objects for {system}, which knows no objects")
    if system == "air" and object_costs:
        raise ValueError("expected no prices of objects for air, whose number of objects is geometric")
    dynamics = Recurrent() if object_size is None else GuidedWalk(scale_bias=-3.0)
    sqair = SQAIRSystem(
        hidden_size, decoder_size=256, output_scale=1.0, object_costs=object_costs, propagation=dynamics
    )
    train, test = videos.source("train"), videos.source("test")
    layout, other = train.layout, test.layout
    if (layout.image_size, layout.channels) != (other.image_size, other.channels):
        raise ValueError(
            f"expected test frames of {layout.image_size} pixels and {layout.channels} channels, as those to train on, "
            f"got {other.image_size} and {other.channels}"
        )
    counts = {split: source.most_objects or -1 for split, source in (("train", train), ("test", test))}
    fullest = max(counts, key=counts.__getitem__)
    most = counts[fullest]  # at a time, as far as anybody has counted
    if num_slots is None:
        num_slots = layout.max_objects + 1 if most > 0 else 4
    if num_slots < most:
        raise ValueError(
            f"expected at least {most} slots, for as many objects as there are at a time in {videos.path(fullest)}, "
            f"got {num_slots}"
        )
    stages = moving_mnist_preset().training.curriculum
    longest = layout.num_frames
    shares = {length: 0.0 for length, _ in stages if length <= longest} or {longest: 0.0}
    for length, share in stages:  # a stage longer than the sequences goes to the longest that there can be
        shares[length if length in shares else max(shares)] += share
    scene = SceneConfig(num_slots, what_dim, layout.channels, layout.image_size, glimpse_size, object_size)
    return Preset(
        name=videos.train.stem,
        videos=videos,
        scene=scene,
        system=SYSTEMS[system](sqair, glimpse_size),
        training=TrainingConfig(steps=5600, curriculum=tuple(shares.items()), ema_decay=0.998),
    )


def _with_system(preset: Callable[[], Preset], system: str, name: str) -> Callable[[], Preset]:
    """The same experiment with another system."""

    def made() -> Preset:
        base = preset()
        assert isinstance(base.system, SQAIRSystem)
        return replace(base, name=name, system=SYSTEMS[system](base.system, base.scene.glimpse_size))

    return made


_SYSTEMS_OF_THE_PAPER = ("conv-sqair", "air", "vrnn", "conv-vrnn")

PRESETS: dict[str, Callable[[], Preset]] = {
    "embedded-digits": embedded_digits_preset,
    "moving-mnist": moving_mnist_preset,
    "paper": paper_preset,
    **{
        name: _with_system(base, system, name)
        for system in _SYSTEMS_OF_THE_PAPER
        for base, name in (
            (embedded_digits_preset, f"{system}-digits"),
            (moving_mnist_preset, f"{system}-mnist"),
        )
    },
}
"""Every experiment on moving digits by name: SQAIR's, and those of the other systems of its paper."""


def preset(name: str) -> Preset:
    """Looks a preset up.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in PRESETS:
        raise ValueError(f"expected a preset among {sorted(PRESETS)}, got {name!r}")
    return PRESETS[name]()
