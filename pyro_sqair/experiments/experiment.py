# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""An experiment: everything that makes up a training, as one value that is saved with its run and read back."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pyro.infer import ELBO

import pyro_sqair
from pyro_sqair.data import Sequences, Source
from pyro_sqair.data.randomness import isolated
from pyro_sqair.experiments.serialization import from_json, to_json
from pyro_sqair.experiments.systems import System
from pyro_sqair.experiments.videos import FileVideos, Videos
from pyro_sqair.infer import check_sites
from pyro_sqair.scene import Program, SceneConfig
from pyro_sqair.training import Trainer, TrainingConfig, load_weights
from pyro_sqair.training.comparison import check_same
from pyro_sqair.training.device import choose_device

FORMAT = 1
_VALIDATION_SEQUENCES = 128


class Run(NamedTuple):
    """A trained experiment, ready to use.

    Attributes:
        experiment: what was trained, on what, and how.
        model: the generative program, with averaged weights.
        guide: its inference program, likewise.
    """

    experiment: Experiment
    model: Program
    guide: Program


class Interrupted(SystemExit):
    """A training was interrupted and saved; a script that does not catch this exits with code 130, as for Ctrl-C."""

    def __init__(self, out: Path) -> None:
        super().__init__(130)
        self.out = out


@dataclass(frozen=True)
class Experiment:
    """Videos, a model with its guide, and a training recipe.

    Attributes:
        name: what it is called on the command line.
        videos: what to learn from, and to be tested on.
        scene: sizes of images, glimpses and latents.
        system: which model and guide.
        training: how to train.
        test_frames: frames of held-out sequences; those of files are as long as they are.
        custom: whether model and guide are not those of ``system`` but a user's own; see :meth:`train`.
    """

    name: str
    videos: Videos
    scene: SceneConfig
    system: System
    training: TrainingConfig = field(default_factory=TrainingConfig)
    test_frames: int = 10
    custom: bool = False

    def __post_init__(self) -> None:
        most = self.videos.most_objects
        if most > self.scene.num_slots:
            raise ValueError(
                f"expected at least {most} slots, for as many objects as a video may hold, got {self.scene.num_slots}"
            )

    @property
    def has_fixed_count_prior(self) -> bool:
        """Whether the prior of the number of objects is a fixed price per object, not a learned distribution."""
        return getattr(self.system, "object_costs", None) is not None

    def identity(self) -> dict[str, Any]:
        """What weights and checkpoints must agree on to be of this model, as JSON values."""
        return {"system": to_json(self.system), "scene": to_json(self.scene), "custom": self.custom}

    def to_json(self) -> dict[str, Any]:
        """The content of `experiment.json`."""
        return {"format": FORMAT, "pyro_sqair": pyro_sqair.__version__, "experiment": to_json(self)}

    @classmethod
    def read(cls, path: str | Path) -> Experiment:
        """Reads `experiment.json`.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is no experiment, of a newer version, or edited so that it cannot be read; it names the
                file, what was expected and what is there.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"expected an experiment as JSON, got a file that cannot be read ({error}): {path}"
            ) from error
        if not isinstance(content, dict) or not {"format", "experiment"} <= content.keys():
            raise ValueError(f"expected an experiment with its format, got something else in {path}")
        if content["format"] != FORMAT:
            raise ValueError(
                f"expected an experiment of format {FORMAT}, got {content['format']!r}, written by pyro_sqair "
                f"{content.get('pyro_sqair')}, in {path}; this is pyro_sqair {pyro_sqair.__version__}"
            )
        try:
            return from_json(cls, content["experiment"], "experiment")
        except ValueError as error:
            raise ValueError(f"{error}; in {path}") from error

    def with_training(self, **changes: Any) -> Experiment:
        """The same experiment with other settings of :class:`TrainingConfig`; None leaves one as it is."""
        given = {name: value for name, value in changes.items() if value is not None}
        return replace(self, training=replace(self.training, **given))

    def source(self, split: str, device: torch.device | str = "cpu", mnist: Path | None = None) -> Source:
        """The sequences of a split.

        Args:
            split: "train" or "test".
            device: where sequences are made or held.
            mnist: folder with MNIST's files, for an experiment on them; None downloads them.
        """
        return self.videos.source(split, device, mnist)

    def held_out(self, sequences: int, seed: int = 1, mnist: Path | None = None) -> Sequences:
        """A fixed set of test sequences on the CPU: the same for the same arguments.

        Args:
            sequences: how many; fewer if the test file has fewer.
            seed: which, where they are made on the fly.
            mnist: see :meth:`source`.
        """
        return self.videos.held_out(sequences, self.test_frames, seed, mnist)

    def programs(self) -> tuple[Program, Program]:
        """A model and its guide with the initial weights of the training's seed."""
        with isolated(torch.device("cpu")):
            torch.manual_seed(self.training.seed)
            return self.system.programs(self.scene)

    def estimator(self) -> ELBO:
        """The estimator that trains them."""
        return self.system.estimator(self.training.num_particles)

    def train(
        self,
        out: str | Path,
        *,
        device: str = "auto",
        mnist: Path | None = None,
        programs: tuple[Program, Program] | None = None,
        progress: bool = True,
    ) -> Run:
        """Trains in a folder, or continues the training that the folder holds; a finished one is only loaded.

        The folder gets `experiment.json`, `weights.safetensors` (what :func:`load` reads), `checkpoint.pt` (to
        continue from) and `log.jsonl`. Ctrl-C saves and stops; the same call continues.

        Args:
            out: the folder.
            device: see :func:`~pyro_sqair.training.device.choose_device`.
            mnist: see :meth:`source`.
            programs: a model and a guide of your own to train instead of those of the system; :func:`load` will need
                them, too.
            progress: whether to show a progress line.

        Returns:
            The experiment, its model and its guide, with averaged weights.

        Raises:
            ValueError: if model and guide do not fit, or the folder holds another experiment; it says what differs.
            Interrupted: if the training was interrupted; it has been saved.
            FloatingPointError: if no step of a whole logging interval had a finite loss.
        """
        from pyro_sqair.experiments.report import validate  # imports SciPy and matplotlib

        out, on = Path(out), choose_device(device)
        experiment = replace(self, custom=programs is not None)
        experiment._check_folder(out)
        train, few = self.source("train", on, mnist), self.held_out(_VALIDATION_SEQUENCES, seed=2, mnist=mnist)
        model, guide = (program.to(on) for program in programs or self.programs())
        check_sites(model, guide, few.frames[:3, :32].to(on))
        trainer = Trainer(
            model,
            guide,
            self.estimator(),
            train,
            self.training,
            out,
            validate=lambda _: validate(model, guide, few),
            identity=experiment.identity(),
            experiment=experiment.to_json(),
            progress=progress,
        )
        if progress:
            print(f"training for {self.training.steps} steps on {on}; Ctrl-C saves and stops")
        if not trainer.complete():
            print("the same command continues", file=sys.stderr)
            raise Interrupted(out)
        load_weights(out / "weights.safetensors", model, guide, experiment.identity())
        return Run(experiment, model.eval(), guide.eval())

    def _check_folder(self, out: Path) -> None:
        """Refuses a folder with another experiment; how fast a run trains and when it is saved may change."""
        path = out / "experiment.json"
        if path.exists():
            ours, theirs = (e._settled() for e in (self, Experiment.read(path)))
            remedy = "for a new run, remove that folder or name another"
            check_same(f"a run of this experiment ({remedy})", to_json(ours), to_json(theirs), path)

    def _settled(self) -> Experiment:
        training = self.with_training(validate_every=1, checkpoint_every=1).training
        videos = replace(self.videos, in_memory=True) if isinstance(self.videos, FileVideos) else self.videos
        return replace(self, training=training, videos=videos)


def load(run: str | Path, device: str = "cpu", programs: tuple[Program, Program] | None = None) -> Run:
    """Loads a trained run: the experiment, its model and its guide, with averaged weights.

        experiment, model, guide = pyro_sqair.load("runs/demo")

    It needs nothing but the folder, runs no code that the folder may hold, and leaves random states as they are.

    Args:
        run: the folder of a run.
        device: see :func:`~pyro_sqair.training.device.choose_device`.
        programs: the model and guide of a run that was trained with programs of your own, built as they were then.

    Raises:
        FileNotFoundError: if there is no such folder, or a file of it is missing.
        ValueError: if the folder is no run, or a file is damaged, edited, of a newer version or of another model; it
            names the file, what was expected and what is there.
    """
    folder, on = Path(run), choose_device(device)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"expected the folder of a run, found {'a file' if folder.exists() else 'none'}: {folder}"
        )
    for name in ("experiment.json", "weights.safetensors"):
        if not (folder / name).is_file():
            there = sorted(path.name for path in folder.iterdir())[:8]
            raise FileNotFoundError(f"expected a run with {name} in {folder}, found {there or 'an empty folder'}")
    experiment = Experiment.read(folder / "experiment.json")
    if experiment.custom != (programs is not None):
        raise ValueError(
            f"expected {'a model and a guide to be passed' if experiment.custom else 'no programs'} as `programs`, got "
            f"{'none' if experiment.custom else 'some'}: the run in {folder} was trained with "
            f"{'programs of its own' if experiment.custom else 'those of its system'}"
        )
    model, guide = experiment.programs() if programs is None else programs
    load_weights(folder / "weights.safetensors", model, guide, experiment.identity())
    return Run(experiment, model.to(on).eval(), guide.to(on).eval())
