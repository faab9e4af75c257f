# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Experiments by name: those of the papers, and smaller ones that a laptop trains in minutes."""

from __future__ import annotations

from dataclasses import replace

from pyro_sqair.data import BallsConfig, four_balls, gentle_motion, published_motion
from pyro_sqair.experiments.experiment import Experiment
from pyro_sqair.experiments.systems import SYSTEMS, SQAIRSystem
from pyro_sqair.experiments.videos import BallVideos, DigitVideos
from pyro_sqair.models import GuidedWalkConfig
from pyro_sqair.scene import SceneConfig
from pyro_sqair.training import TrainingConfig, published


def embedded_digits() -> Experiment:
    """Up to two of scikit-learn's digits in gentle motion: learns to count and track in minutes on two CPU cores."""
    return Experiment(
        name="embedded-digits",
        videos=DigitVideos("embedded", gentle_motion()),
        scene=SceneConfig(num_slots=2, what_dim=16),
        system=SQAIRSystem(hidden_size=128, object_costs=(5.0, 10.0)),
        training=TrainingConfig(steps=2800, curriculum=((3, 0.75), (6, 0.25)), ema_decay=0.998, validate_every=300),
    )


def moving_mnist() -> Experiment:
    """MNIST with the published motion, for 40 minutes on two CPU cores."""
    return Experiment(
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


def paper() -> Experiment:
    """The published experiment and recipe (Kosiorek et al. 2018, Appendix D): days on a GPU."""
    return Experiment(
        name="paper",
        videos=DigitVideos("mnist", published_motion()),
        scene=SceneConfig(num_slots=3, what_dim=50),
        system=SQAIRSystem(hidden_size=256),
        training=published(),
    )


def small_balls() -> Experiment:
    """Four balls of one kind in a smaller box without cropping: minutes on two CPU cores.

    The size of objects is given, a little larger than the balls, and the propagation prior is a guided walk. Without
    these, boxes become far too large, and the prior first has to learn that objects persist.
    """
    return Experiment(
        name="small-balls",
        videos=BallVideos(BallsConfig(box=48, crop=None, radii=(4.0,), masses=(1.0,), speed=2.0)),
        scene=SceneConfig(4, what_dim=5, image_size=(48, 48), glimpse_size=(12, 12), object_size=(12.0, 12.0)),
        system=SQAIRSystem(
            128, output_scale=1.0, object_costs=(0.0, 10.0), propagation=GuidedWalkConfig(scale_bias=-3.0)
        ),
        training=TrainingConfig(
            steps=1500,
            learning_rate_changes=((0, 2e-3), (850, 6e-4)),  # on eight frames the first rate diverges
            curriculum=((3, 0.35), (8, 0.65)),
            ema_decay=0.998,
            validate_every=300,
        ),
    )


def balls() -> Experiment:
    """The experiment of R-SQAIR (Stanić & Schmidhuber 2019, Section 3), for a GPU: four balls, 50x50 of 64x64 pixels.

    The curriculum is that of the paper, one frame more every 10,000 steps from 3 to 10; the learning rate is SQAIR's.
    """
    lengths = range(3, 11)
    work = sum(lengths)
    return Experiment(
        name="balls",
        videos=BallVideos(four_balls()),
        scene=SceneConfig(num_slots=4, what_dim=5),
        system=SQAIRSystem(256),
        training=replace(published(), steps=80_000, curriculum=tuple((n, n / work) for n in lengths)),
    )


def _with_system(base: Experiment, system: str, name: str) -> Experiment:
    assert isinstance(base.system, SQAIRSystem)
    return replace(base, name=name, system=SYSTEMS[system](base.system, base.scene.glimpse_size))


def _presets() -> dict[str, Experiment]:
    digits, mnist = embedded_digits(), moving_mnist()
    found = [digits, mnist, paper()]
    for system in ("conv-sqair", "air", "vrnn", "conv-vrnn"):
        found += [_with_system(digits, system, f"{system}-digits"), _with_system(mnist, system, f"{system}-mnist")]
    for base in (small_balls(), balls()):
        found += [base, *(_with_system(base, f"r-sqair-{kind}", f"{base.name}-{kind}") for kind in ("in", "rmc"))]
    return {experiment.name: experiment for experiment in found}


PRESETS = _presets()
"""Every experiment by name: SQAIR's, those of the other systems of its paper, and R-SQAIR's on bouncing balls."""


def preset(name: str) -> Experiment:
    """The preset of that name.

    Raises:
        ValueError: if there is none.
    """
    if name not in PRESETS:
        raise ValueError(f"expected a preset among {sorted(PRESETS)}, got {name!r}")
    return PRESETS[name]
