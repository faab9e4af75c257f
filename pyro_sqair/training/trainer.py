# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The training loop, for any Pyro model and guide that take frames."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from pyro_sqair.data.randomness import capture, derive_seed, isolated, restore
from pyro_sqair.data.sequences import Source
from pyro_sqair.training.averaging import WeightAverage
from pyro_sqair.training.batch import draw_batch
from pyro_sqair.training.checkpoint import check_settings, check_state, load_checkpoint, load_schedule
from pyro_sqair.training.comparison import ANOTHER_FOLDER, not_finite
from pyro_sqair.training.config import TrainingConfig
from pyro_sqair.training.folder import RunFolder
from pyro_sqair.training.interruption import Interruption
from pyro_sqair.training.log import append_record
from pyro_sqair.training.meter import Meter
from pyro_sqair.training.progress import Progress
from pyro_sqair.training.rehearsal import invalid_parameters, rehearse
from pyro_sqair.training.schedule import learning_rate, sequence_length
from pyro_sqair.training.updater import Updater


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
        self.updater = Updater(parameters, config)
        everywhere = self.objective.named_parameters(remove_duplicate=False)  # shared ones under each of their names
        self._trained = {name: parameter for name, parameter in everywhere if parameter.requires_grad}
        self.average = WeightAverage(parameters, config.ema_decay) if config.ema_decay else None
        self.step = self.skipped = 0
        self.metrics: dict[str, float] = {}
        self.seconds = 0.0
        self.folder = RunFolder(self.out)
        self.checkpoint = self.folder.checkpoint
        self._show = progress
        self._meter = Meter(self.device)
        with isolated(self.device):
            torch.manual_seed(derive_seed("draws", config.seed))
            self._random = capture(self.device)

    def run(self) -> bool:
        """Trains until the last step, Ctrl-C or SIGTERM; a second signal aborts without saving.

        Returns:
            Whether the run is finished; otherwise it was interrupted and saved. A finished run does nothing.

        Raises:
            BlockingIOError: if another process trains in the folder.
            FileExistsError: if a new run has a folder with a checkpoint.
            FloatingPointError: if no step of a whole logging interval had a finite loss and gradient, or a step made
                weights infinite. A checkpoint has finite weights of before.
            OSError: if a file cannot be written, as on a full disk. The last checkpoint is kept.
        """
        if self.step >= self.config.steps:
            return True
        with self.folder.lock, ExitStack() as stack:
            if self.folder.saved is None and self.checkpoint.exists():
                raise FileExistsError(f"expected a folder without a checkpoint, got {self.out}{ANOTHER_FOLDER}")
            # An empty store: a PyroParam would take the value of a PyroParam of the same name in another model.
            stack.enter_context(pyro.get_param_store().scope())
            stack.enter_context(isolated(self.device))
            interruption = stack.enter_context(Interruption())
            progress = Progress(self.config, self.step, self._show)
            stack.callback(progress.close)
            restore(self._random, self.device)
            frames = draw_batch(self.source, self.config, self.step)
            # Before any file is written. Not validated again after resuming: a step with an infinite loss is skipped.
            with self._explained(frames):
                rehearse(self.objective, frames, self.device, validate=self.step == 0)
            self.folder.start(self.step, self.experiment)
            self._loop(interruption, progress, frames)
            self._random = capture(self.device)
        if self.step < self.config.steps:
            print(f"interrupted after step {self.step}; saved in {self.checkpoint}", file=sys.stderr)
        return self.step >= self.config.steps

    def complete(self) -> bool:
        """Resumes the run if its folder has a checkpoint, and trains until the last step; see `resume` and `run`."""
        with self.folder.lock:
            if self.checkpoint.exists():
                self.resume()
                if self._show:
                    print(f"continuing {self.out} at step {self.step}{ANOTHER_FOLDER}")
            return self.run()

    def resume(self) -> None:
        """Restores the state of the checkpoint; after an error, nothing has changed.

        Raises:
            FileNotFoundError: if there is no checkpoint.
            ValueError: if the file is damaged or edited, or of another model or training; lists what differs.
        """
        path, payload = self.checkpoint, load_checkpoint(self.checkpoint)
        check_settings(payload, self.identity, self.config, path)
        tensors = self._tensors() | {"optimizer": self.updater.empty_state(payload["unused"])}
        check_state(payload, tensors, self._trained, self.device, path)
        load_schedule(self.estimator, payload["estimator"], path)
        self.updater.load_state_dict(payload["optimizer"])
        self.objective.load_state_dict(payload["weights"])
        if self.average is not None:
            self.average.load(payload["average"])
        self.step = self.folder.saved = payload["step"]
        self.skipped, self.metrics = payload["skipped"], payload["metrics"]
        self.seconds, self._random = payload["seconds"], payload["random"]
        self._meter.sums.copy_(payload["sums"])
        self._meter.logged = self.step % self.config.log_every

    def averaged_weights(self) -> AbstractContextManager[None]:
        """A context in which model and guide hold the moving average of their weights, if there is one."""
        return nullcontext() if self.average is None else self.average.swapped_in()

    def _loop(self, interruption: Interruption, progress: Progress, frames: Tensor | None) -> None:
        began, before = time.monotonic(), self.seconds
        while self.step < self.config.steps:
            with pyro.validation_enabled(False):
                self._update(draw_batch(self.source, self.config, self.step) if frames is None else frames)
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
            # The weights are not worth a new checkpoint if all steps since the last record were skipped.
            if self._due(self.config.checkpoint_every) and not self._meter.all_skipped:
                self._save()
            if interruption.requested:
                break
        if self.folder.saved != self.step:
            self._save()

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.config.steps

    def _update(self, frames: Tensor) -> None:
        check = getattr(self.objective.model, "check", None)
        if check is not None and self.step % self.config.log_every == 0:
            check(frames)  # reads the device, so only in steps next to those that do so for the log
        with self._explained(frames):
            loss = self.objective(frames) / frames.shape[:2].numel()
        norm, finite = self.updater.update(loss, learning_rate(self.step, self.config))
        if self.average is not None:
            self.average.update(self.step)
        self._meter.add(loss, norm, finite)
        self.step += 1

    @contextmanager
    def _explained(self, frames: Tensor) -> Iterator[None]:
        """Replaces errors of the programs by clearer ones for invalid frames and, after the first step, divergence."""
        try:
            yield
        except (RuntimeError, ValueError):
            fault = invalid_parameters(self.objective, frames, self.device)
            if fault and self.step > 0:
                self._stop_diverged(f"{fault}, in step {self.step}, of {len(frames)} frames")
            raise

    def _log_training(self) -> float:
        if self._meter.all_skipped:
            last, length = self.step - 1, sequence_length(self.step - 1, self.config)
            self.step -= self._meter.logged  # the weights are still those of this step
            self._meter.read()
            self._stop_diverged(f"no finite loss and gradient in steps {self.step} to {last}, of {length} frames")
        self._check_weights()
        read = self._meter.read()
        self.skipped += read.skipped
        append_record(
            self.folder.log,
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
        append_record(self.folder.log, record | self.metrics)

    def _stop_diverged(self, problem: str) -> NoReturn:
        if self.folder.saved is None:
            self._save()
        raise self.folder.diverged(problem, self.config)

    def _tensors(self) -> dict[str, Any]:
        average = None if self.average is None else self.average.values
        return {"weights": dict(self.objective.state_dict()), "average": average, "sums": self._meter.sums}

    def _check_weights(self) -> None:
        """Raises an error if a finite gradient has made weights infinite, as an excessive learning rate does."""
        if bad := not_finite(self._trained):
            raise self.folder.diverged(f"NaN or infinity in {bad} after step {self.step}", self.config)

    def _save(self) -> None:
        self._check_weights()
        moments = self.updater.state_dict()
        payload = {
            **self._tensors(),
            "identity": self.identity,
            "config": asdict(self.config),
            "step": self.step,
            "optimizer": moments,
            "unused": [name for name in self.updater.named if name not in moments],
            "estimator": getattr(self.estimator, "state_dict", dict)(),
            "random": capture(self.device),
            "skipped": self.skipped,
            "metrics": self.metrics,
            "seconds": self.seconds,
        }
        self.folder.save(payload, self.objective.model, self.objective.guide, self.averaged_weights())
