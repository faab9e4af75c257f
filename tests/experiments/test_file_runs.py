# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""A run on a file knows its data: moved files continue it, other files are refused."""

import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

import pyro_sqair
from pyro_sqair.data import BouncingBalls, four_balls, write_sequences
from pyro_sqair.experiments import Experiment, FileVideos, Interrupted, Run, file_experiment, report
from pyro_sqair.experiments.experiment import _FILES


def write(folder: Path, seed: int) -> Path:
    """Writes train.h5 and test.h5 to a folder, and returns the first."""
    for name, number in (("train", seed), ("test", 9)):
        path = folder / f"{name}.h5"
        source = BouncingBalls(four_balls())
        write_sequences(path, source, 3, 2, number, generator="balls", overwrite=True, progress=False)
    return folder / "train.h5"


def experiment(train: Path) -> Experiment:
    made = file_experiment(FileVideos(train), what_dim=2, hidden_size=4)
    return made.with_training(steps=3, batch_size=2, num_particles=2)


def train(made: Experiment, out: Path) -> Run:
    return made.train(out, device="cpu", progress=False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The training file in a folder "data"."""
    return write(tmp_path / "data", seed=1)


@pytest.fixture
def interrupted(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that was interrupted after one step."""

    def press_ctrl_c(*_: object) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGINT)
        return {}

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(report, "validate", press_ctrl_c)
        train(experiment(data).with_training(validate_every=1), tmp_path / "run")
    return tmp_path / "run"


def test_moved_data_continues(interrupted: Path, data: Path, tmp_path: Path) -> None:
    assert pyro_sqair.load(interrupted).experiment.videos.train == data
    for name in ("once", "twice"):  # continued, then finished
        moved = shutil.move(data.parent, tmp_path / name) / "train.h5"
        run = train(experiment(moved), interrupted)
        assert run.experiment.videos.train == moved
        assert pyro_sqair.load(interrupted).experiment == run.experiment
        assert report.write_report(run, interrupted, progress=False)["steps"] == 3
        data = moved
    elsewhere = replace(run.experiment, videos=FileVideos(data, test=data))
    assert train(elsewhere, interrupted).experiment.videos.test == data  # a finished run is evaluated on these


OTHER = "(?s)different ones in .*run.experiment.json .to start a new run, choose another folder.*fingerprint.seed: "


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("place", ["data", "other"])
def test_other_data_is_refused(interrupted: Path, data: Path, tmp_path: Path, finished: bool, place: str) -> None:
    """Other data at another place, and in the place of the data that the run began with."""
    before = experiment(data)
    if finished:
        train(before, interrupted)
    files = {path: path.read_bytes() for path in interrupted.iterdir()}
    other = write(tmp_path / place, seed=2)
    with pytest.raises(ValueError, match=f"{OTHER}expected 2, got 1"):
        train(experiment(other), interrupted)
    if place == "data":
        with pytest.raises(ValueError, match=r"(?s)the training sequences of this.*train.h5.*seed: expected 1, got 2"):
            train(before, interrupted)
    assert {path: path.read_bytes() for path in interrupted.iterdir()} == files


def test_videos_without_a_fingerprint_get_one(interrupted: Path, data: Path, tmp_path: Path) -> None:
    bare = replace(experiment(data), videos=FileVideos(data))
    assert train(bare, interrupted).experiment == experiment(data)
    bare = replace(bare, videos=FileVideos(write(tmp_path / "other", seed=2)))
    with pytest.raises(ValueError, match=f"{OTHER}expected 2, got 1"):
        train(bare, interrupted)


@pytest.mark.parametrize("name", [*_FILES, *report.PICTURES])
def test_files_of_others_are_not_replaced(data: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "config.json").write_text("unrelated")
    (folder / name).write_text("mine")
    message = (
        f"expected no files of another run in {folder}, got ['{name}'] (to start a new run, choose another folder)"
    )
    with pytest.raises(FileExistsError, match=re.escape(message)):
        train(experiment(data), folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"config.json": "unrelated", name: "mine"}
    (folder / name).unlink()
    train(experiment(data).with_training(steps=1), folder)
    assert (folder / "config.json").read_text() == "unrelated"


@pytest.mark.parametrize("content", [None, "", '{"kind": "validation", "step": 3, "seconds": 1.0}\n'])
def test_no_log(interrupted: Path, data: Path, content: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    log = interrupted / "log.jsonl"
    log.unlink() if content is None else log.write_text(content)
    monkeypatch.setattr(report, "evaluate", lambda *_, **__: pytest.fail("evaluated"))
    with pytest.raises(ValueError, match="expected the log of a training in .*log.jsonl, found none"):
        report.write_report(pyro_sqair.load(interrupted), interrupted)
