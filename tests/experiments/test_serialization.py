# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Configurations are unchanged by a round trip through JSON; errors name invalid entries."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from pyro_sqair.cli.train import Train
from pyro_sqair.data import BouncingBalls, Fingerprint, coloured_balls, curtained_balls, four_balls, write_sequences
from pyro_sqair.experiments import PRESETS, SYSTEMS, BallVideos, CustomPrior, Experiment, FileVideos, FittedPrior
from pyro_sqair.experiments.serialization import from_json, to_json
from pyro_sqair.models import GRUPriorConfig, GuidedWalkConfig, RandomWalkConfig
from pyro_sqair.nn.relations import InteractionConfig, MemoryCoreConfig
from pyro_sqair.scene import SceneConfig
from pyro_sqair.training import fitting

DIGITS = PRESETS["embedded-digits"]


def round_trip(experiment: Experiment) -> Experiment:
    return from_json(Experiment, json.loads(json.dumps(to_json(experiment))), "experiment")


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets(name: str) -> None:
    assert round_trip(PRESETS[name]) == PRESETS[name]


PRIORS = (GRUPriorConfig, RandomWalkConfig, GuidedWalkConfig)
BALLS = (four_balls(), coloured_balls(), curtained_balls())
VARIANTS: list[dict[str, Any]] = [
    *({"system": replace(DIGITS.system, relations=r)} for r in (None, InteractionConfig(3), MemoryCoreConfig(2, 5))),
    *({"system": replace(DIGITS.system, propagation=prior(-2.0))} for prior in PRIORS),
    *({"system": make(DIGITS.system, (20, 20))} for make in SYSTEMS.values()),
    *({"videos": BallVideos(balls), "scene": SceneConfig(8)} for balls in BALLS),
    *(
        {
            "system": replace(DIGITS.system, fitted=FittedPrior(prior, None, "both", fitting(), 99, "ab12")),
            "custom": True,
        }
        for prior in (RandomWalkConfig(-2.0), CustomPrior("priors:Physics"))
    ),
    {"videos": FileVideos(Path("a/train.h5"))},
    {"videos": FileVideos(Path("a.h5"), Path("b.h5"), in_memory=False), "custom": True, "test_frames": 7},
    {"videos": FileVideos(Path("a.h5"), fingerprint=Fingerprint(9, 5, 3, (50, 60), 3, "film", None, "{}", "ab12"))},
    {"scene": replace(DIGITS.scene, object_size=(9, 8.5), object_size_std=0.2, channels=3)},
    {"training": replace(DIGITS.training, clip_norm=None, learning_rate_changes=((0, 1e-3), (9, 1e-4)))},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_systems_priors_relations_and_videos(changes: dict[str, Any]) -> None:
    experiment = replace(DIGITS, **changes)
    assert round_trip(experiment) == experiment
    assert type(round_trip(experiment).system) is type(experiment.system)


OPTIONS: dict[str, list[Any]] = {
    "test": [None, Path("test.h5")],
    "slots": [None, 7],
    "glimpse": [(12, 16)],
    "object_size": [None, (8.0, 6.0)],
    "object_size_std": [0.2],
    "what_dim": [4],
    "hidden": [16],
    "system": sorted(SYSTEMS),
    "object_costs": [None, (5.0, 10.0)],
    "steps": [3],
    "learning_rate": [None, 1e-4],
    "in_memory": [True, False],
    "seed": [4],
}
# Options that are not part of the experiment.
ELSEWHERE = {"train", "out", "device", "threads", "sequences"}


def test_every_option_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train.h5", "test.h5"):
        write_sequences(tmp_path / name, BouncingBalls(four_balls()), 2, 5, 0, generator="balls", progress=False)
    monkeypatch.chdir(tmp_path)
    assert {field.name for field in fields(Train)} == OPTIONS.keys() | ELSEWHERE
    plain = Train(Path("train.h5")).experiment()
    for option, values in OPTIONS.items():
        for value in values:
            experiment = Train(Path("train.h5"), **{option: value}).experiment()
            assert round_trip(experiment) == experiment
            assert (experiment == plain) == (getattr(Train(Path("train.h5")), option) == value)


def edited(path: str, value: Any) -> dict[str, Any]:
    """The experiment on digits with one entry, given by its dotted path, changed or, after "-", removed."""
    content = to_json(DIGITS)
    *parents, last = path.removeprefix("-").split(".")
    entry = content
    for parent in parents:
        entry = entry[parent]
    if path.startswith("-"):
        del entry[last]
    else:
        entry[last] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("type", "Preset", "experiment: expected type Experiment, got 'Preset'"),
        ("system.type", "Transformer", r"experiment.system: expected one of \['AIRSystem', .*\], got 'Transformer'"),
        ("system", 3, "experiment.system: expected one of .* got 3"),
        ("system", [3], r"experiment.system: expected one of .* got \[3\]"),
        ("system.type", ["SQAIRSystem"], r"experiment.system: expected one of .* got \['SQAIRSystem'\]"),
        ("system.hidden_size", "128", "experiment.system.hidden_size: expected int, got '128'"),
        ("system.hidden_size", 1.5, "hidden_size: expected int, got 1.5"),
        ("system.hidden_size", True, "hidden_size: expected int, got True"),
        ("system.output_scale", "wide", "output_scale: expected float, got 'wide'"),
        ("system.object_costs", [1.0], "object_costs: expected a list of 2, got"),
        ("system.object_costs", [1.0, None], r"object_costs\[1\]: expected float, got None"),
        ("scene.image_size", 50, "image_size: expected a list of 2, got 50"),
        ("scene.num_slots", 0, "experiment.scene: expected sizes of at least 1, got"),
        ("videos.digits", "letters", r"digits: expected one of \['embedded', 'mnist'\], got 'letters'"),
        ("training.curriculum", [[3, "half"]], r"curriculum\[0\]\[1\]: expected float, got 'half'"),
        ("training.steps", 0, "experiment.training: expected steps to be a positive integer, got 0"),
        ("-training.seed", None, "experiment.training: expected the entries .* got"),
        ("training.momentum_of_another_kind", 1, "experiment.training: expected the entries .* got"),
        ("name", None, "experiment.name: expected str, got None"),
    ],
)
def test_invalid_entries(path: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_json(Experiment, edited(path, value), "experiment")


def test_only_configurations_are_written() -> None:
    with pytest.raises(TypeError, match="expected a configuration of .* got 1j"):
        to_json((DIGITS.scene, 1j))
