# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The folder of a run: the files that training writes, and what is kept of them after an error."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import nn

from pyro_sqair.data.atomic import atomic_path, remove_temporary_files, write_json
from pyro_sqair.training.checkpoint import write_checkpoint
from pyro_sqair.training.comparison import ANOTHER_FOLDER
from pyro_sqair.training.config import TrainingConfig
from pyro_sqair.training.lock import FolderLock
from pyro_sqair.training.log import read_log, truncate_log
from pyro_sqair.training.weights import save_weights


class RunFolder:
    """The files of a run.

    Attributes:
        checkpoint, weights, log, experiment: their paths.
        lock: held while the run is trained.
        saved: the step of the checkpoint that the run has written or was resumed from; None if there is none.

    Args:
        path: the folder; created when the first file is written.
    """

    def __init__(self, path: Path) -> None:
        self.checkpoint, self.weights = path / "checkpoint.pt", path / "weights.safetensors"
        self.log, self.experiment = path / "log.jsonl", path / "experiment.json"
        self.lock = FolderLock(path)
        self.saved: int | None = None

    def start(self, step: int, experiment: Mapping[str, Any] | None) -> None:
        """Removes the temporary files of a killed process, writes the experiment, and ends the log at `step`."""
        remove_temporary_files((self.checkpoint, self.weights, self.log, self.experiment))
        if experiment is not None:  # first, as it tells which run the other files belong to
            write_json(self.experiment, experiment)
        truncate_log(self.log, step)

    def save(
        self, payload: Mapping[str, Any], model: nn.Module, guide: nn.Module, averaged: AbstractContextManager[None]
    ) -> None:
        """Writes the checkpoint and the weights, or neither.

        Args:
            payload: of the checkpoint; see :func:`~pyro_sqair.training.checkpoint.write_checkpoint`.
            model: the model.
            guide: its guide.
            averaged: a context in which both hold the weights to write.

        Raises:
            OSError: if a file cannot be written, as on a full disk; says which checkpoint is kept.
        """
        step = payload["step"]
        try:
            # Both files are complete before either is replaced. The checkpoint is replaced last, so that a crash in
            # between cannot leave a finished checkpoint with older weights.
            with atomic_path(self.checkpoint) as temporary:
                write_checkpoint(temporary, payload)
                with averaged:
                    save_weights(self.weights, model, guide, payload["identity"], step)
        except OSError as error:
            kept = "there is no checkpoint" if self.saved is None else f"the checkpoint of step {self.saved} is kept"
            raise OSError(error.errno, f"{error.strerror}; {kept}", error.filename) from error
        self.saved = step

    def diverged(self, problem: str, config: TrainingConfig) -> FloatingPointError:
        """The error of a training that diverges: what is kept, and which settings to lower.

        Args:
            problem: what was not finite, and in which step.
            config: of the training.
        """
        finite = [r for r in read_log(self.log) if r["kind"] == "train" and r["bound"] is not None]
        bound = f"{finite[-1]['bound']:.1f} nats per frame at step {finite[-1]['step']}" if finite else "none"
        clipping = "set clip_norm" if config.clip_norm is None else f"lower clip_norm (now {config.clip_norm:g})"
        return FloatingPointError(
            f"expected losses and weights to stay finite, got {problem}\n"
            f"  last finite bound in the log: {bound}\n"
            f"  checkpoint: {'none' if self.saved is None else f'finite weights of step {self.saved}'}\n"
            f"  what may help: lower learning_rate (now {config.learning_rate:g}) with --learning-rate of "
            f"pyro-sqair train or in TrainingConfig, or {clipping} there{ANOTHER_FOLDER}"
        )
