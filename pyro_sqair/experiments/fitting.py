# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Fits the prior of a trained run alone, to what its guide infers (contract C10), and writes the pair as a new run."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar

import torch

from pyro_sqair.data.atomic import atomic_path, write_json
from pyro_sqair.data.files.dataset import StoredSequences
from pyro_sqair.data.randomness import isolated
from pyro_sqair.experiments.experiment import Run, load
from pyro_sqair.experiments.fitted import CustomPrior, FittedPrior
from pyro_sqair.experiments.systems import SQAIRSystem
from pyro_sqair.infer import check_sites
from pyro_sqair.models import (
    SQAIR,
    GRUPriorConfig,
    GuidedWalkConfig,
    RandomWalkConfig,
    ScenePrior,
    given_discovery,
    given_propagation,
)
from pyro_sqair.nn.relations import InteractionConfig, MemoryCoreConfig
from pyro_sqair.scene import Program
from pyro_sqair.training import Bank, PriorScore, draw_bank, fit_prior, fitting, save_weights, score_prior
from pyro_sqair.training.comparison import ANOTHER_FOLDER
from pyro_sqair.training.lock import FolderLock
from pyro_sqair.training.weights import read_header

T = TypeVar("T")

PROPAGATIONS: dict[str, type[GRUPriorConfig]] = {
    "gru": GRUPriorConfig,
    "random-walk": RandomWalkConfig,
    "guided-walk": GuidedWalkConfig,
}
RELATIONS = {"none": None, "in": InteractionConfig(), "rmc": MemoryCoreConfig()}
_LONGEST = 12  # frames of a scene, unless given


def fit_run(
    run: str | Path,
    out: str | Path,
    *,
    propagation: str | None = None,
    relations: str | None = None,
    part: Literal["both", "discovery", "propagation"] = "both",
    steps: int = 1500,
    scenes: int = 4000,
    length: int | None = None,
    seed: int = 0,
    device: str = "auto",
    mnist: Path | None = None,
    progress: bool = True,
) -> Run:
    """Fits the prior of a trained run to scenes that its guide infers, or continues the fit of a folder.

    The guide and the renderer keep their weights, and share none with the fitted prior. The discovery prior is fitted
    from its weights in the run; so is the propagation prior, unless it is another one. The folder gets
    `experiment.json` and `weights.safetensors`, which :func:`~pyro_sqair.load` reads, `log.jsonl`, and the checkpoints
    in `fit/`. Ctrl-C saves and stops; the same call continues. A finished fit is only loaded.

    Args:
        run: the folder of a run of SQAIR; it is not changed.
        out: the folder of the new run.
        propagation: the propagation prior: a name among :data:`PROPAGATIONS`, or MODULE:CALLABLE, see
            :class:`~pyro_sqair.experiments.fitted.CustomPrior`; None for that of the run. A new run with code of your
            own is loaded with `programs=experiment.system.programs(experiment.scene)`, which imports it.
        relations: of objects in it: a name among :data:`RELATIONS`; None for those of the run.
        part: which part to fit.
        steps: number of updates.
        scenes: number of scenes to draw; a tenth as many of test videos are held out for validation.
        length: frames of a scene; None for the longest sequences of the run's training, at most 12.
        seed: of the scenes, the batches and the initial weights.
        device: see :func:`~pyro_sqair.training.device.choose_device`.
        mnist: see :meth:`~pyro_sqair.experiments.Experiment.source`.
        progress: whether to show progress, and to print the size of the bank and the log-probability of its scenes.

    Raises:
        FileNotFoundError: if the run or the file that it was trained on is missing.
        ValueError: if a setting is invalid, the run is not one of SQAIR, the prior cannot be imported or draws other
            sites or shapes, the guide propagates no objects, or the folder has another run; lists what differs.
        FileExistsError: if the folder has no experiment, but a file with the name of a run's.
        BlockingIOError: if another process trains or fits in the folder.
        Interrupted: if the fit was interrupted; it has been saved.
        FloatingPointError: if the fit diverges; see :meth:`~pyro_sqair.training.Trainer.run`.
    """
    run, out = Path(run), Path(out)
    source_run = load(run, device)
    experiment, system = source_run.experiment, source_run.experiment.system
    if not isinstance(system, SQAIRSystem):
        raise ValueError(f"expected a run of SQAIR, with propagation, got one of {type(system).__name__} in {run}")
    current = system.fitted or system
    if length is None:
        length = min(_LONGEST, max(frames for frames, _ in experiment.training.curriculum))
    propagation_config = current.propagation if propagation is None else _propagation(propagation, current.propagation)
    custom = isinstance(propagation_config, CustomPrior)
    relations_config = None if custom else current.relations
    if relations is not None:
        relations_config = _choose(relations, RELATIONS, "relations")
    recipe = replace(fitting(steps, length), seed=seed)
    start = read_header(run / "weights.safetensors").checksum
    fitted = FittedPrior(propagation_config, relations_config, part, recipe, scenes, start)
    unchanged = (propagation_config, relations_config) == (current.propagation, current.relations)
    if part == "discovery" and not unchanged:
        raise ValueError(f"expected the propagation prior of {run}, if only discovery is fitted, got another one")
    experiment, content = replace(experiment, system=replace(system, fitted=fitted), custom=custom).claim(out)
    with isolated(torch.device("cpu")):
        torch.default_generator.manual_seed(seed)
        model, guide = experiment.system.programs(experiment.scene)
    if (weights := out / "weights.safetensors").exists():
        if progress:
            print(f"{out} is finished{ANOTHER_FOLDER}")
        write_json(out / "experiment.json", content)  # the files of the videos may have moved
        return load(out, device, (model, guide) if custom else None)

    on = next(source_run.guide.parameters()).device
    model, guide = model.to(on), guide.to(on)
    guide.load_state_dict(source_run.guide.state_dict())
    for name in ("renderer", "discovery_prior", *["propagation_prior"] * unchanged):
        getattr(model, name).load_state_dict(getattr(source_run.model, name).state_dict())
    source = experiment.source("train", on, mnist)
    check_sites(model, guide, source.sample(2, length, torch.Generator(source.device)).frames[:3])
    with FolderLock(out):
        bank = draw_bank(guide, source, scenes, length, seed, progress)
        if part != "discovery" and not bank.num_propagated:
            raise ValueError(f"expected a guide that propagates objects, got none in {scenes} scenes from {run}")
        unseen = experiment.source("test", on, mnist)
        frames = min(length, unseen.layout.num_frames) if isinstance(unseen, StoredSequences) else length
        held_out = draw_bank(guide, unseen, max(2, scenes // 10), frames, seed + 1, progress)
        train, held_out = (Bank(b.draws.to(on), b.scene, guide) for b in (bank, held_out))
        write_json(out / "experiment.json", content)
        if progress:
            size = f"{bank.draws.nbytes / 1e6:.3g} MB"
            print(f"{scenes} scenes of {length} frames, {size}; {len(held_out)} of test videos are held out")
            _print_score("before", score_prior(_prior(source_run.model, part), held_out))
        score = fit_prior(
            _prior(model, part), train, out / "fit", fitted.training, held_out, experiment.identity(), progress
        )
        if progress:
            _print_score("after", score)
        with atomic_path(out / "log.jsonl") as temporary:
            shutil.copyfile(out / "fit" / "log.jsonl", temporary)
        save_weights(weights, model, guide, experiment.identity(), steps)  # last: the folder is finished
    return Run(experiment, model.eval(), guide.eval())


def _propagation(name: str, current: object) -> GRUPriorConfig | CustomPrior:
    """A prior by name, with the scale bias of the current one."""
    if ":" in name:
        return CustomPrior(name)
    kind = _choose(name, PROPAGATIONS, "a propagation prior MODULE:CALLABLE or")
    return kind(getattr(current, "scale_bias", GRUPriorConfig.scale_bias))


def _choose(name: str, choices: Mapping[str, T], what: str) -> T:
    if name not in choices:
        raise ValueError(f"expected {what} among {sorted(choices)}, got {name!r}")
    return choices[name]


def _prior(model: Program, part: str) -> ScenePrior:
    """The prior of a model, without the part that is not fitted."""
    assert isinstance(model, SQAIR)
    discovery = given_discovery if part == "propagation" else model.discovery_prior
    return ScenePrior(discovery, given_propagation if part == "discovery" else model.propagation_prior, model.scene)


def _print_score(when: str, score: PriorScore) -> None:
    parts = {
        "discovery": (score.discovery, score.discovery_error, "frame"),
        "propagation": (score.propagation, score.propagation_error, "propagated object"),
    }
    known = [f"{n} {mean:.3f} +- {e:.3f} nats a {unit}" for n, (mean, e, unit) in parts.items() if not math.isnan(mean)]
    print(f"held-out log p {when} the fit: {', '.join(known)}")
