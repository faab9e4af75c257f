# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""`pyro-sqair train`: any file of sequences, with the same command."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from PIL import Image

import pyro_sqair
from pyro_sqair.cli import main
from pyro_sqair.cli.train import Train
from pyro_sqair.data import (
    BallsConfig,
    BouncingBalls,
    SequenceDataset,
    Sequences,
    SequenceWriter,
    four_balls,
    held_out,
    write_sequences,
)
from pyro_sqair.experiments import SYSTEMS, FileVideos, file_experiment
from pyro_sqair.experiments.experiment import _FILES
from pyro_sqair.experiments.report import PICTURES
from pyro_sqair.models import SizedWhere

SMALL = ["--steps", "2", "--threads", "1", "--sequences", "4", "--hidden", "16", "--what-dim", "4"]


@pytest.fixture
def balls(tmp_path: Path) -> Path:
    """A folder with train.h5 and test.h5, of balls."""
    for name, seed in (("train", 1), ("test", 2)):
        path = tmp_path / f"{name}.h5"
        write_sequences(path, BouncingBalls(four_balls()), 6, 5, seed, generator="balls", progress=False)
    return tmp_path


def test_every_system_is_an_option() -> None:
    assert set(get_args(get_type_hints(Train)["system"])) == SYSTEMS.keys()


def test_trains_reports_and_continues(balls: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = balls / "run"
    arguments = ["train", str(balls / "train.h5"), "--out", str(out), *SMALL, "--glimpse", "12", "12"]
    assert main(arguments) == 0
    assert "count accuracy" in capsys.readouterr().out
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["steps"] == 2 and metrics["frames"] == 5 and metrics["sequences"] == 4
    assert {"tracks.png", "tracks.gif", "prediction.png", "samples.png"} <= {path.name for path in out.iterdir()}
    experiment, _, guide = pyro_sqair.load(out)
    assert experiment.videos.train == balls / "train.h5" and experiment.test_frames == 5
    assert pyro_sqair.infer_objects(guide, experiment.held_out(4).frames).pres.shape == (5, 4, 5)
    assert main(arguments) == 0
    assert "is finished, at step 2" in capsys.readouterr().out
    assert json.loads((out / "metrics.json").read_text())["seconds"] == metrics["seconds"]


def test_without_annotations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = held_out(BouncingBalls(four_balls()), 6, 5, 0)
    absent = torch.zeros(5, 6, 1, dtype=torch.bool)
    unknown = known._replace(
        count=torch.full((5, 6), -1),
        present=absent,
        boxes=torch.zeros(5, 6, 1, 4),
        ids=torch.full((5, 6, 1), -1),
        labels=torch.full((6, 1), -1),
        collisions=None,
    )
    for name in ("film.h5", "film-val.h5"):
        with SequenceWriter(tmp_path / name) as writer:
            writer.append(unknown)
    assert main(["train", str(tmp_path / "film.h5"), "--out", str(tmp_path / "run"), *SMALL]) == 0
    assert "not annotated" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert "objects_per_frame" in metrics and "count_accuracy" not in metrics
    assert file_experiment(FileVideos(tmp_path / "film.h5")).scene.num_slots == 4


@pytest.mark.parametrize("system", ["sqair", "air", "vrnn"])
@pytest.mark.parametrize("num_frames", [1, 2])
def test_short_sequences(
    tmp_path: Path, num_frames: int, system: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("film.h5", 1), ("film-val.h5", 2)):
        write_sequences(name, BouncingBalls(four_balls()), 4, num_frames, seed, generator="balls", progress=False)
    assert main(["train", "film.h5", "--system", system, *SMALL]) == 0
    out = tmp_path / "runs" / "film"
    metrics = json.loads((out / "metrics.json").read_text())
    per_frame = {name: value for name, value in metrics.items() if isinstance(value, list)}
    assert set(map(len, per_frame.values())) == (set() if system == "vrnn" else {num_frames})
    numbers = {n: v for n, v in metrics.items() if n not in per_frame}
    assert metrics["frames"] == num_frames
    # An identity can be kept only from one frame to the next; it needs a match in both.
    unknown = {name for name, value in numbers.items() if value is None}
    assert unknown <= {"ids_kept", "mean_iou"} and ("ids_kept" in unknown or num_frames == 2 or system == "vrnn")
    assert all(math.isfinite(value) for name, value in numbers.items() if name not in unknown)
    pictures = [name for name in PICTURES if num_frames > 1 or name != "prediction.png"]
    assert {path.name for path in out.iterdir()} == {".lock", "experiment.json", *_FILES, *pictures}
    printed = capsys.readouterr().out
    assert "log p, IWAE K=100" in printed
    assert f"pictures: {', '.join(str(Path('runs/film', name)) for name in pictures)}\n" in printed
    with Image.open(out / "tracks.gif") as animation:
        assert animation.n_frames == num_frames


@pytest.mark.parametrize(
    ("train", "folder"),
    [("street.h5", "street"), ("a/street.h5", "street"), ("balls/train.h5", "balls"), ("../train.h5", "here")],
)
def test_the_default_folder_has_the_name_of_the_data(
    train: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "below")
    assert Train(Path(train)).folder == Path("runs", folder)
    assert Train(Path(train), out=Path("run")).folder == Path("run")


def test_objects_of_a_known_size(balls: Path) -> None:
    sizes = {"object_size": (8.0, 6.0), "object_size_std": 0.2}
    model, _ = Train(balls / "train.h5", **sizes).experiment().programs()
    where = model.discovery_prior.where
    assert isinstance(where, SizedWhere) and where.std == 0.2
    assert where.size.sigmoid().tolist() == pytest.approx([6 / 50, 8 / 50])


def test_a_lower_learning_rate_is_lower_throughout(balls: Path) -> None:
    for rate, rates in ((None, (1e-3, 2e-5)), (5e-4, (5e-4, 1e-5))):
        training = Train(balls / "train.h5", learning_rate=rate).experiment().training
        assert (training.learning_rate, training.final_learning_rate) == pytest.approx(rates, rel=1e-12)


class TestExperiment:
    def test_sizes_are_the_file_s(self, balls: Path) -> None:
        experiment = file_experiment(FileVideos(balls / "train.h5"), glimpse_size=(10, 12))
        scene = experiment.scene
        assert (scene.image_size, scene.channels, scene.glimpse_size) == ((50, 50), 1, (10, 12))
        assert scene.num_slots == 5  # one more than there are balls
        assert file_experiment(FileVideos(balls / "train.h5"), num_slots=7).scene.num_slots == 7

    def test_curriculum_ends_with_the_file_s_frames(self, balls: Path) -> None:
        stages = file_experiment(FileVideos(balls / "train.h5")).training.curriculum
        assert [length for length, _ in stages] == [3, 4]
        assert sum(share for _, share in stages) == pytest.approx(1.0)

    def test_of_fewer_frames_than_any_stage(self, tmp_path: Path) -> None:
        for name in ("train.h5", "test.h5"):
            write_sequences(tmp_path / name, BouncingBalls(four_balls()), 2, 2, 0, generator="balls", progress=False)
        assert file_experiment(FileVideos(tmp_path / "train.h5")).training.curriculum == ((2, 1.0),)

    def test_reads_from_memory_or_disk(self, balls: Path) -> None:
        batches = []
        for in_memory in (True, False):
            source = FileVideos(balls / "train.h5", in_memory=in_memory).source("train")
            assert isinstance(source, SequenceDataset)
            batches.append(source.sample(3, 2, torch.Generator().manual_seed(0)).frames)
        assert torch.equal(*batches)


class TestErrors:
    @pytest.fixture
    def error(self, balls: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
        """Returns the error message of a command, which must not create the folder of the run."""

        def error(train: object, *arguments: object) -> str:
            assert main(["train", str(train), "--out", str(balls / "run"), *SMALL, *map(str, arguments)]) == 1
            assert not (balls / "run").exists()
            return capsys.readouterr().err

        return error

    def test_missing_files(self, balls: Path, error: Callable[..., str]) -> None:
        assert "none.h5" in error(balls / "none.h5")
        (balls / "test.h5").unlink()
        assert "--test" in error(balls / "train.h5")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ("--learning-rate nan", "learning_rate to be positive and at most 1, got nan"),
            ("--learning-rate -0.1", "learning_rate to be positive and at most 1, got -0.1"),
            ("--sequences 0", "expected sequences of at least 1, got 0"),
            ("--sequences -1", "expected sequences of at least 1, got -1"),
            ("--threads 0", "expected threads from 1 to 1024, got 0"),
            ("--threads 1000000000", "threads from 1 to 1024, got 1000000000"),
            *((f"--device={name}", f"expected a device .* got '{name}'") for name in ("gpu", "CUDA", "mps", "")),
            ("--hidden 0", "expected hidden_size from 1 to 4096, got 0"),
            ("--what-dim 0", "expected sizes of at least 1"),
            ("--slots 5000", "of at most 4096, got 5000"),
            ("--object-costs 1e38 1e38", "expected costs of objects from 0 to 1e6 nats"),
            ("--object-size-std nan", "expected object_size_std from 1e-4 to 10, got nan"),
            (f"--seed {2**63}", "expected seed to be below"),
            (f"--steps {10**30}", "expected steps of at most"),
            ("--device cuda:1", "got 'cuda:1'"),
            ("--object-size 8 60", r"\(50, 50\).*\(8.0, 60.0\)"),
            ("--glimpse 51 20", r"\(51, 20\)"),
            ("--system vrnn --object-size 5 5", "of objects for vrnn"),
            ("--system conv-vrnn --object-costs 5 5", "of objects for conv-vrnn"),
            ("--system air --object-costs 5 5", "of objects for air"),
        ],
    )
    def test_options(
        self, balls: Path, error: Callable[..., str], options: str, words: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        assert re.search(words, error(balls / "train.h5", *options.split()))

    def test_files_that_do_not_fit(self, balls: Path, error: Callable[..., str]) -> None:
        for name, config in (("small.h5", BallsConfig(crop=40)), ("one.h5", BallsConfig(min_balls=1, max_balls=1))):
            write_sequences(balls / name, BouncingBalls(config), 2, 5, 0, generator="balls", progress=False)
        message = error(balls / "train.h5", "--test", balls / "small.h5")
        assert "expected test frames of (50, 50)" in message and "(40, 40)" in message
        for train, test in (("train.h5", "one.h5"), ("one.h5", "train.h5")):
            message = error(balls / train, "--test", balls / test, "--slots", 3)
            assert "at least 4 slots" in message and "train.h5, got 3" in message

    @pytest.mark.parametrize("shape", [(2, 3, 16, 16, 2), (2, 3, 16, 16, 4), (2, 3, 3, 16, 16)])
    def test_frames_that_cannot_be_drawn(self, balls: Path, error: Callable[..., str], shape: tuple[int, ...]) -> None:
        absent = torch.zeros(3, 2, 1, dtype=torch.bool)
        blank = Sequences(
            frames=torch.zeros(shape).permute(1, 0, 4, 2, 3),
            count=absent.sum(-1),
            present=absent,
            boxes=torch.zeros(3, 2, 1, 4),
            ids=torch.full((3, 2, 1), -1),
            labels=torch.full((2, 1), -1),
        )
        for name in ("odd.h5", "odd-val.h5"):
            with SequenceWriter(balls / name) as writer:
                writer.append(blank)
        message = error(balls / "odd.h5", "--glimpse", 2, 2)
        assert f"[n, T, H, W, C] with 1 or 3 channels, channels last, got {list(shape)} in" in message
        assert "odd.h5" in message
