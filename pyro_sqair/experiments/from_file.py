# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Experiments on sequences from files, with the sizes of their frames and the recipe of moving MNIST."""

from __future__ import annotations

from pyro_sqair.data import open_sequences
from pyro_sqair.experiments.experiment import Experiment
from pyro_sqair.experiments.presets import preset
from pyro_sqair.experiments.systems import SYSTEMS, SQAIRSystem
from pyro_sqair.experiments.videos import RNEM_SPLITS, FileVideos
from pyro_sqair.models import GRUPriorConfig, GuidedWalkConfig
from pyro_sqair.scene import SceneConfig
from pyro_sqair.training import TrainingConfig

_SLOTS_IF_UNKNOWN = 4


def file_experiment(
    videos: FileVideos,
    num_slots: int | None = None,
    glimpse_size: tuple[int, int] = (20, 20),
    what_dim: int = 32,
    hidden_size: int = 128,
    object_costs: tuple[float, float] | None = None,
    system: str = "sqair",
    object_size: tuple[float, float] | None = None,
    object_size_std: float = 0.07,
) -> Experiment:
    """An experiment on sequences from files, with the fingerprint of the file to train on.

    Args:
        videos: the files.
        num_slots: the maximum number of objects N; None for one more than the largest number in a frame of either
            file, or 4 if the files are not annotated.
        glimpse_size: (h, w) in pixels; about the size of an object.
        what_dim: the dimension D of ``what``.
        hidden_size: units of every network.
        object_costs: see :class:`~pyro_sqair.experiments.systems.SQAIRSystem`.
        system: a name among :data:`~pyro_sqair.experiments.systems.SYSTEMS`.
        object_size: see :class:`~pyro_sqair.scene.SceneConfig`. If given, the propagation prior is a guided walk,
            because boxes of the paper's recurrent prior start with half the size of the image.
        object_size_std: see :class:`~pyro_sqair.scene.SceneConfig`.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged, frames of the files differ in size or are neither grey nor of three colours,
            or a setting does not fit the system.
    """
    if system not in SYSTEMS:
        raise ValueError(f"expected a system among {sorted(SYSTEMS)}, got {system!r}")
    if system.endswith("vrnn") and (object_costs or object_size):
        raise ValueError(f"expected no costs or sizes of objects for {system}, which has no objects")
    if system == "air" and object_costs:
        raise ValueError("expected no costs of objects for air, whose number of objects is geometric")
    paths = {split: videos.path(split) for split in RNEM_SPLITS}
    files = {split: open_sequences(path, RNEM_SPLITS[split]) for split, path in paths.items()}
    train, test = (files[split].layout for split in ("train", "test"))
    if train.channels not in (1, 3):
        raise ValueError(
            f"expected frames of shape [n, T, H, W, C] with 1 or 3 channels, channels last, got "
            f"{list(train.shape('nTHWC'))} in {paths['train']}"
        )
    if (train.image_size, train.channels) != (test.image_size, test.channels):
        raise ValueError(
            f"expected test frames of {train.image_size} pixels and {train.channels} channels, as those to train on, "
            f"got {test.image_size} and {test.channels}"
        )
    most = {split: file.most_objects or 0 for split, file in files.items()}
    fullest = max(most, key=most.__getitem__)
    if num_slots is None:
        num_slots = most[fullest] + 1 if most[fullest] else _SLOTS_IF_UNKNOWN
    if num_slots < most[fullest]:
        raise ValueError(
            f"expected at least {most[fullest]} slots, the most objects of a frame in {paths[fullest]}, got {num_slots}"
        )
    dynamics = GRUPriorConfig() if object_size is None else GuidedWalkConfig(scale_bias=-3.0)
    sqair = SQAIRSystem(
        hidden_size, decoder_size=256, output_scale=1.0, object_costs=object_costs, propagation=dynamics
    )
    sizes = train.channels, train.image_size, glimpse_size, object_size, object_size_std
    curriculum = _shortened(preset("moving-mnist").training.curriculum, train.num_frames)
    return Experiment(
        name=videos.train.stem,
        videos=videos.fingerprinted(),
        scene=SceneConfig(num_slots, what_dim, *sizes),
        system=SYSTEMS[system](sqair, glimpse_size),
        training=TrainingConfig(steps=5600, curriculum=curriculum, ema_decay=0.998),
        test_frames=test.num_frames,
    )


def _shortened(stages: tuple[tuple[int, float], ...], longest: int) -> tuple[tuple[int, float], ...]:
    """Replaces stages of more than ``longest`` frames by the longest of the others, or by one of ``longest`` frames."""
    shares = {length: 0.0 for length, _ in stages if length <= longest} or {longest: 0.0}
    for length, share in stages:
        shares[length if length in shares else max(shares)] += share
    return tuple(shares.items())
