# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Experiments: the complete description of a training, saved as JSON with its run."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

import pyro_sqair
from pyro_sqair.data import Sequences, Source
from pyro_sqair.data.atomic import write_json
from pyro_sqair.data.randomness import isolated
from pyro_sqair.experiments.fitted import CustomPrior
from pyro_sqair.experiments.serialization import from_json, to_json
from pyro_sqair.experiments.systems import System
from pyro_sqair.experiments.videos import FileVideos, Videos
from pyro_sqair.infer import check_sites
from pyro_sqair.scene import Program, SceneConfig
from pyro_sqair.training import Trainer, TrainingConfig, load_weights
from pyro_sqair.training.comparison import ANOTHER_FOLDER, check_same
from pyro_sqair.training.device import choose_device
from pyro_sqair.training.interruption import Interrupted
from pyro_sqair.training.weights import read_header

FORMAT = 2
# With the pictures, the files of a run besides its experiment.json.
_FILES = ("checkpoint.pt", "weights.safetensors", "log.jsonl", "metrics.json")
_VALIDATION_SEQUENCES = 128


class Run(NamedTuple):
    """A trained experiment, ready to use.

    Attributes:
        experiment: its description.
        model, guide: the generative and the inference program, with averaged weights.
    """

    experiment: Experiment
    model: Program
    guide: Program


@dataclass(frozen=True)
class Experiment:
    """Videos, a model with its guide, and a training recipe.

    Attributes:
        name: of the experiment.
        videos: training and test sequences.
        scene: sizes of images, glimpses and latents.
        system: which model and guide.
        training: how to train.
        test_frames: number of frames of test sequences; unused for files.
        custom: whether a model and guide were passed to :meth:`train`, in place of those of ``system``.
    """

    name: str
    videos: Videos
    scene: SceneConfig
    system: System
    training: TrainingConfig = field(default_factory=TrainingConfig)
    test_frames: int = 10
    custom: bool = False

    def __post_init__(self) -> None:
        most, num_slots = self.videos.most_objects, self.scene.num_slots
        if most > num_slots:
            raise ValueError(f"expected at least {most} slots, the most objects of a video, got {num_slots}")
        prior = getattr(getattr(self.system, "fitted", None), "propagation", None)
        if isinstance(prior, CustomPrior) and not self.custom:
            raise ValueError(f"expected custom=True with the code of {prior.program!r}, got False")
        if self.test_frames < 1:
            raise ValueError(f"expected test_frames of at least 1, got {self.test_frames}")

    @property
    def has_fixed_count_prior(self) -> bool:
        """Whether the prior of the number of objects is a fixed price per object, not a learned distribution."""
        return getattr(self.system, "object_costs", None) is not None

    def identity(self) -> dict[str, Any]:
        """The settings that determine the weights, as JSON values; a run and its files belong to one identity.

        Files of sequences are identified by their fingerprint, not by their path.
        """
        content = to_json(self)
        logged = "validate_every", "checkpoint_every"
        unused = [(content, ("name", "test_frames")), (content["videos"], ("train", "test", "in_memory"))]
        unused += [(content["training"], logged), ((content["system"].get("fitted") or {}).get("training", {}), logged)]
        for entry, names in unused:
            for name in names:
                entry.pop(name, None)
        return content

    @classmethod
    def read(cls, path: str | Path) -> Experiment:
        """Reads `experiment.json`.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is not an experiment, is of another version, or has an invalid entry; names the
                file and the entry.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"expected an experiment as JSON, got an unreadable file ({error}): {path}") from error
        if not isinstance(content, dict) or not {"format", "experiment"} <= content.keys():
            raise ValueError(f"expected an experiment with its format, got something else in {path}")
        if type(content["format"]) is not int or content["format"] != FORMAT:
            raise ValueError(
                f"expected an experiment of format {FORMAT}, got {content['format']!r}, written by pyro_sqair "
                f"{content.get('pyro_sqair')}, in {path}; this is pyro_sqair {pyro_sqair.__version__}"
            )
        try:
            return from_json(cls, content["experiment"], "experiment")
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{error}; in {path}") from error

    def with_training(self, **changes: Any) -> Experiment:
        """The same experiment with other settings of :class:`TrainingConfig`; None keeps a setting."""
        given = {name: value for name, value in changes.items() if value is not None}
        return replace(self, training=replace(self.training, **given))

    def source(self, split: str, device: torch.device | str = "cpu", mnist: Path | None = None) -> Source:
        """The sequences of a split.

        Args:
            split: "train" or "test".
            device: of the sequences.
            mnist: folder with the files of MNIST, if the experiment needs them; None to download them.
        """
        return self.videos.source(split, device, mnist)

    def held_out(self, sequences: int, seed: int = 1, mnist: Path | None = None) -> Sequences:
        """A fixed set of test sequences on the CPU: the same for the same arguments.

        Args:
            sequences: the number of sequences; fewer if the test file has fewer.
            seed: of generated sequences.
            mnist: see :meth:`source`.
        """
        return self.videos.held_out(sequences, self.test_frames, seed, mnist)

    def programs(self) -> tuple[Program, Program]:
        """A model and its guide with the initial weights of the training's seed.

        Raises:
            ValueError: if the experiment was trained with a model and guide of the user's own.
        """
        if self.custom:
            raise ValueError(f"expected `programs`, the model and guide that {self.name!r} was trained with, got none")
        with isolated(torch.device("cpu")):
            torch.default_generator.manual_seed(self.training.seed)  # torch.manual_seed would also seed GPUs
            return self.system.programs(self.scene)

    def claim(self, out: Path) -> tuple[Experiment, dict[str, Any]]:
        """Checks that a folder has a run of this experiment, or no run.

        Returns:
            This experiment with the fingerprint of the file to train on, and the content of its `experiment.json`.
            Errors are those of :meth:`train`.
        """
        from pyro_sqair.experiments.report import PICTURES  # imports SciPy and matplotlib

        if out.is_file():
            raise NotADirectoryError(f"expected a folder for the run, found a file: {out}")
        videos = self.videos.fingerprinted() if isinstance(self.videos, FileVideos) else self.videos
        experiment, description = replace(self, videos=videos), out / "experiment.json"
        if description.exists():
            found = Experiment.read(description).identity()
            check_same("the settings of this experiment", experiment.identity(), found, description, ANOTHER_FOLDER)
        elif foreign := [name for name in (*_FILES, *PICTURES) if (out / name).exists()]:
            raise FileExistsError(f"expected no files of another run in {out}, got {foreign}{ANOTHER_FOLDER}")
        content = {"format": FORMAT, "pyro_sqair": pyro_sqair.__version__, "experiment": to_json(experiment)}
        return experiment, content

    def train(
        self,
        out: str | Path,
        *,
        device: str = "auto",
        mnist: Path | None = None,
        programs: tuple[Program, Program] | None = None,
        progress: bool = True,
    ) -> Run:
        """Trains in a folder, or continues the training of the folder; a finished one is only loaded.

        The folder gets `experiment.json` and `weights.safetensors`, which :func:`load` reads, `checkpoint.pt`, from
        which training continues, and `log.jsonl`. Ctrl-C saves and stops; the same call continues, also if the file to
        train on has moved, but not with another content; see :class:`~pyro_sqair.data.Fingerprint`.

        Args:
            out: the folder.
            device: see :func:`~pyro_sqair.training.device.choose_device`.
            mnist: see :meth:`source`.
            programs: a model and guide to train in place of those of the system; :func:`load` will need them too.
            progress: whether to show a progress line.

        Raises:
            FileNotFoundError: if the file to train on is missing.
            ValueError: if model and guide do not fit, or the content of the file to train on or the folder's experiment
                is another one; lists what differs; or if the experiment has a prior that is fitted alone.
            FileExistsError: if the folder has no experiment, but a file with the name of a run's.
            BlockingIOError: if another process trains in the folder.
            Interrupted: if the training was interrupted; it has been saved.
            FloatingPointError: if the training diverges; see :meth:`~pyro_sqair.training.Trainer.run`.
            OSError: if a file cannot be written, as on a full disk; the last checkpoint is kept.
        """
        from pyro_sqair.experiments.report import validate  # imports SciPy and matplotlib

        if getattr(self.system, "fitted", None) is not None:
            raise ValueError(f"expected an experiment to train, got {self.name!r} with a prior that is fitted alone")
        out, on = Path(out), choose_device(device)
        description, weights = out / "experiment.json", out / "weights.safetensors"
        experiment, content = replace(self, custom=self.custom or programs is not None).claim(out)
        identity = experiment.identity()
        model, guide = experiment.programs() if programs is None else _pair(programs)
        for program in (model, guide):
            if program.scene != self.scene:
                raise ValueError(f"expected programs for {self.scene}, got one for {program.scene}")
        if weights.exists() and (step := read_header(weights).step) >= self.training.steps:
            if progress:
                print(f"{out} is finished, at step {step}{ANOTHER_FOLDER}")
            if Experiment.read(description) != experiment:  # the files of the videos have moved
                write_json(description, content)
            return load(out, device, programs)
        train, test = self.source("train", on, mnist), self.held_out(_VALIDATION_SEQUENCES, seed=2, mnist=mnist)
        model, guide = model.to(on), guide.to(on)
        check_sites(model, guide, test.frames[:3, :32].to(on))
        trainer = Trainer(
            model,
            guide,
            self.system.estimator(self.training.num_particles),
            train,
            self.training,
            out,
            validate=lambda _: validate(model, guide, test),
            identity=identity,
            experiment=content,
            progress=progress,
        )
        if progress:
            print(f"training for {self.training.steps} steps on {on}; Ctrl-C saves and stops")
        if not trainer.complete():
            print("the same call or command continues it", file=sys.stderr)
            raise Interrupted
        load_weights(weights, model, guide, identity)
        return Run(experiment, model.eval(), guide.eval())


def load(run: str | Path, device: str = "cpu", programs: tuple[Program, Program] | None = None) -> Run:
    """Loads a trained run: the experiment, its model and its guide, with averaged weights.

        experiment, model, guide = pyro_sqair.load("runs/demo")

    The folder alone is enough. No code in it is run, and random states are unchanged.

    Args:
        run: the folder of a run.
        device: see :func:`~pyro_sqair.training.device.choose_device`.
        programs: a model and guide built like those that were passed to :meth:`Experiment.train`, if there were any.

    Raises:
        FileNotFoundError: if there is no such folder, or one of its files is missing.
        ValueError: if a file is damaged, edited, of another version or of another model, or `programs` are missing;
            names the file, what was expected and what it has.
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
    experiment, weights = Experiment.read(folder / "experiment.json"), folder / "weights.safetensors"
    check_same(
        f"the settings of {folder / 'experiment.json'}", experiment.identity(), read_header(weights).identity, weights
    )
    if programs is not None and not experiment.custom:
        raise ValueError(f"expected no `programs`, got some: the run in {folder} was trained with those of its system")
    model, guide = experiment.programs() if programs is None else _pair(programs)
    load_weights(weights, model, guide, experiment.identity())
    return Run(experiment, model.to(on).eval(), guide.to(on).eval())


def _pair(programs: object) -> tuple[Program, Program]:
    if not isinstance(programs, tuple | list) or len(programs) != 2:
        raise ValueError(f"expected `programs` to be a pair (model, guide), got {type(programs).__name__}")
    return programs[0], programs[1]
