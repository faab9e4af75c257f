# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The training loop, for any Pyro model and guide that take frames."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from pyro_sqair.data.atomic import write_json
from pyro_sqair.data.randomness import capture, derive_seed, isolated, restore
from pyro_sqair.data.sequences import Source
from pyro_sqair.training.averaging import WeightAverage
from pyro_sqair.training.checkpoint import load_checkpoint, save_checkpoint
from pyro_sqair.training.comparison import ANOTHER_FOLDER, check_same, check_weights
from pyro_sqair.training.config import TrainingConfig
from pyro_sqair.training.interruption import Interruption
from pyro_sqair.training.lock import FolderLock
from pyro_sqair.training.log import append_record, truncate_log
from pyro_sqair.training.meter import Meter
from pyro_sqair.training.progress import Progress
from pyro_sqair.training.schedule import learning_rate, sequence_length
from pyro_sqair.training.updater import Updater
from pyro_sqair.training.weights import save_weights

# Settings that may change when a run is resumed: they do not affect what is learned.
_FREE = dict.fromkeys(("validate_every", "checkpoint_every"))


class Trainer:
    """Trains a model and its guide; an interrupted run continues as if it had not been interrupted.

    The folder `out` gets `log.jsonl`, with records of kind "train" and "validation"; `checkpoint.pt`, to resume from;
    `weights.safetensors`, the averaged weights; `experiment.json`, if there is one; and `.lock`, for one training at a
    time. The draws of a run depend on `config.seed` alone. PyTorch's global generators are restored.

    Args:
        model: a module that is a Pyro model, called with frames [T, B, C, H, W].
        guide: its guide, called in the same way. All parameters of both must exist, on one device.
        elbo: the estimator; `elbo(model, guide)(frames)` is −Σ_b L_b. One with a schedule has a `state_dict` and a
            `load_state_dict`, and is resumed with the run.
        source: draws the sequences to train on.
        config: the configuration.
        out: folder of the run; created if it is missing.
        validate: called with the number of steps done, every `validate_every` steps and at the end, without gradients,
            with the averaged weights, and with the same random numbers every time; returns what to log. The progress
            line shows its "count_accuracy".
        identity: the settings that determine model and guide, as JSON values; a checkpoint is resumed only if it has
            the same.
        experiment: the content of `experiment.json`, as JSON values; None for no such file.
        progress: whether to show a progress line.

    Raises:
        ValueError: if `identity` is not JSON-able, there are no parameters to train, or `elbo` has another number of
            particles than `config`.
    """

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module,
        elbo: ELBO,
        source: Source,
        config: TrainingConfig,
        out: Path,
        validate: Callable[[int], Mapping[str, float]] | None = None,
        identity: Mapping[str, Any] | None = None,
        experiment: Mapping[str, Any] | None = None,
        progress: bool = True,
    ) -> None:
        try:
            self.identity = json.loads(json.dumps(dict(identity or {}), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(f"expected identity to be JSON-able, got {identity!r}") from error
        particles = getattr(elbo, "num_particles", config.num_particles)
        if particles != config.num_particles:
            raise ValueError(f"expected an estimator with config.num_particles={config.num_particles}, got {particles}")
        self.experiment = experiment
        self.estimator = elbo
        self.objective = elbo(model, guide)
        self.source, self.config, self.out, self.validate = source, config, Path(out), validate
        parameters = {k: p for k, p in self.objective.named_parameters() if p.requires_grad}
        if not parameters:
            raise ValueError("expected a model and a guide with parameters to train, got none")
        self.device = next(iter(parameters.values())).device
        self.updater = Updater(list(parameters.values()), config)
        self.average = WeightAverage(parameters, config.ema_decay) if config.ema_decay else None
        self.step = self.skipped = 0
        self.metrics: dict[str, float] = {}
        self.seconds = 0.0
        self._show, self._meter, self._lock = progress, Meter(self.device), FolderLock(self.out)
        with isolated(self.device):
            torch.manual_seed(derive_seed("draws", config.seed))
            self._random = capture(self.device)

    @property
    def checkpoint(self) -> Path:
        """The path of the checkpoint."""
        return self.out / "checkpoint.pt"

    def run(self) -> bool:
        """Trains until the last step, Ctrl-C or SIGTERM; a second signal aborts without saving.

        Returns:
            Whether the run is finished; otherwise it was interrupted and saved. A finished run does nothing.

        Raises:
            BlockingIOError: if another process trains in the folder.
            FileExistsError: if a new run has a folder with a checkpoint.
            FloatingPointError: if no step of a whole logging interval had a finite loss and gradient.
        """
        if self.step >= self.config.steps:
            return True
        with self._lock, ExitStack() as stack:
            if self.step == 0 and self.checkpoint.exists():
                raise FileExistsError(f"expected a folder without a checkpoint, got {self.out}{ANOTHER_FOLDER}")
            # An empty store: a PyroParam would take the value of a PyroParam of the same name in another model.
            stack.enter_context(pyro.get_param_store().scope())
            stack.enter_context(isolated(self.device))
            interruption = stack.enter_context(Interruption())
            progress = Progress(self.config, self.step, self._show)
            stack.callback(progress.close)
            restore(self._random, self.device)
            frames = self._batch()
            self._rehearse(frames)  # before any file is written
            if self.experiment is not None:  # first, as it tells which run the other files belong to
                write_json(self.out / "experiment.json", self.experiment)
            truncate_log(self.out / "log.jsonl", self.step)
            self._loop(interruption, progress, frames)
            self._random = capture(self.device)
        if self.step < self.config.steps:
            print(f"interrupted after step {self.step}; saved in {self.checkpoint}", file=sys.stderr)
        return self.step >= self.config.steps

    def complete(self) -> bool:
        """Resumes the run if its folder has a checkpoint, and trains until the last step; see `resume` and `run`."""
        with self._lock:
            if self.checkpoint.exists():
                self.resume()
                if self._show:
                    print(f"continuing {self.out} at step {self.step}{ANOTHER_FOLDER}")
            return self.run()

    def resume(self) -> None:
        """Restores the state of the checkpoint; after an error, nothing has changed.

        Raises:
            FileNotFoundError: if there is no checkpoint.
            ValueError: if the file is damaged, or of another model or training; lists what differs.
        """
        path, payload = self.checkpoint, load_checkpoint(self.checkpoint)
        check_same("the settings of this run", self.identity, payload["identity"], path, ANOTHER_FOLDER)
        ours, theirs = ({**config, **_FREE} for config in (asdict(self.config), payload["config"]))
        check_same("the settings of this training", ours, theirs, path, ANOTHER_FOLDER)
        check_weights(self.objective.state_dict(), payload["weights"], path)
        if load := getattr(self.estimator, "load_state_dict", None):
            load(payload["estimator"])
        elif payload["estimator"]:
            raise ValueError(
                f"expected a checkpoint of an estimator without a schedule, got one with {payload['estimator']}: {path}"
            )
        self.updater.optimizer.load_state_dict(payload["optimizer"])
        self.objective.load_state_dict(payload["weights"])
        if self.average is not None:
            self.average.load(payload["average"])
        self.step, self.skipped, self.metrics = payload["step"], payload["skipped"], payload["metrics"]
        self.seconds, self._random = payload["seconds"], payload["random"]
        self._meter.sums, self._meter.logged = payload["sums"].to(self.device), payload["logged"]

    def averaged_weights(self) -> AbstractContextManager[None]:
        """A context in which model and guide hold the moving average of their weights, if there is one."""
        return nullcontext() if self.average is None else self.average.swapped_in()

    def _loop(self, interruption: Interruption, progress: Progress, frames: Tensor | None) -> None:
        began, before, saved = time.monotonic(), self.seconds, -1
        while self.step < self.config.steps:
            with pyro.validation_enabled(False):
                self._update(self._batch() if frames is None else frames)
            frames = None  # only the first batch has been drawn already, for the checks
            progress.advance()
            self.seconds = before + time.monotonic() - began
            if self._due(self.config.log_every):
                bound = self._log_training()
                length = sequence_length(self.step - 1, self.config)
                progress.describe(self.step, length, bound, self.metrics.get("count_accuracy"))
            if self.validate is not None and self._due(self.config.validate_every):
                self._log_validation(self.validate)
                self.seconds = before + time.monotonic() - began
            if self._due(self.config.checkpoint_every):
                self._save()
                saved = self.step
            if interruption.requested:
                break
        if saved < self.step:
            self._save()

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.config.steps

    def _batch(self) -> Tensor:
        config, length = self.config, sequence_length(self.step, self.config)
        # A new generator in every step, so that a batch is independent of all earlier draws.
        generator = torch.Generator(self.source.device)
        generator.manual_seed(derive_seed("batch", config.seed, self.step))
        frames = self.source.sample(config.batch_size, length, generator).frames
        if frames.shape[:2] != (length, config.batch_size):
            raise ValueError(f"expected frames of shape [{length}, {config.batch_size}, ...], got {list(frames.shape)}")
        return frames

    def _update(self, frames: Tensor) -> None:
        check = getattr(self.objective.model, "check", None)
        if check is not None and self.step % self.config.log_every == 0:
            check(frames)  # reads the device, so only in steps next to those that do so for the log
        try:
            loss = self.objective(frames) / frames.shape[:2].numel()
        except (RuntimeError, ValueError):
            self._rehearse(frames)  # raises a clearer error if the frames are invalid
            raise
        norm, finite = self.updater.update(loss, learning_rate(self.step, self.config))
        if self.average is not None:
            self.average.update(self.step)
        self._meter.add(loss, norm, finite)
        self.step += 1

    def _rehearse(self, frames: Tensor) -> None:
        """Runs the programs once with Pyro's validation, which is too slow for every step, and restores all state.

        This is also the first call of the estimator, which may run the programs once more to count the plates. In the
        first step after resuming, this would draw numbers that an uninterrupted run does not draw.
        """
        buffers = [(buffer, buffer.clone()) for buffer in self.objective.buffers()]
        with isolated(self.device), torch.no_grad(), pyro.validation_enabled(True):
            self.objective(frames)
            for buffer, before in buffers:
                buffer.copy_(before)

    def _log_training(self) -> float:
        read = self._meter.read()
        if read.skipped == self.config.log_every:
            raise FloatingPointError(
                f"expected a finite loss and gradient, got none in steps {self.step - read.skipped} to "
                f"{self.step - 1}; a lower learning_rate or clip_norm may help"
            )
        self.skipped += read.skipped
        append_record(
            self.out / "log.jsonl",
            {
                "kind": "train",
                "step": self.step,
                "length": sequence_length(self.step - 1, self.config),
                "bound": read.bound,
                "gradient_norm": read.gradient_norm,
                "learning_rate": learning_rate(self.step - 1, self.config),
                "skipped": read.skipped,
                "seconds": round(self.seconds, 3),
            },
        )
        return read.bound

    def _log_validation(self, validate: Callable[[int], Mapping[str, float]]) -> None:
        with isolated(self.device), torch.no_grad(), self.averaged_weights(), pyro.validation_enabled(False):
            torch.manual_seed(derive_seed("validation", self.config.seed))
            metrics = validate(self.step)
        self.metrics = {name: float(value) for name, value in metrics.items()}
        record = {"kind": "validation", "step": self.step, "seconds": round(self.seconds, 3)}
        append_record(self.out / "log.jsonl", record | self.metrics)

    def _save(self) -> None:
        pair = self.objective.model, self.objective.guide
        with self.averaged_weights():
            save_weights(self.out / "weights.safetensors", *pair, self.identity, self.step)
        payload: dict[str, Any] = {
            "identity": self.identity,
            "config": asdict(self.config),
            "step": self.step,
            "weights": dict(self.objective.state_dict()),
            "optimizer": self.updater.optimizer.state_dict(),
            "estimator": getattr(self.estimator, "state_dict", dict)(),
            "average": None if self.average is None else self.average.values,
            "random": capture(self.device),
            "sums": self._meter.sums,
            "logged": self._meter.logged,
            "skipped": self.skipped,
            "metrics": self.metrics,
            "seconds": self.seconds,
        }
        # Last, so that a crash in between cannot leave a finished checkpoint with older weights.
        save_checkpoint(self.checkpoint, payload)
