# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""`pyro-sqair data`: files as their commands say, and a clear no before anything is written."""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_sqair.cli import main
from pyro_sqair.data import (
    BouncingBalls,
    MovingDigits,
    SequenceDataset,
    embedded_digits,
    four_balls,
    gentle_motion,
    held_out,
    mnist_digits,
    published_motion,
)
from pyro_sqair.data.randomness import derive_seed

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command: its exit status, and what it wrote to both streams."""

    def command(*arguments: object) -> tuple[int, str, str]:
        status = main(["data", *map(str, arguments)])
        return status, *capsys.readouterr()

    return command


def same(path: Path, expected) -> None:
    """The file holds these sequences, field by field and bit by bit."""
    with SequenceDataset(path) as dataset:
        for ours, theirs in zip(dataset.read()[:-1], expected[:-1], strict=True):
            assert torch.equal(ours, theirs)
        physics = dataset.read().physics
    assert (physics is None) == (expected.physics is None)
    for ours, theirs in zip(physics or (), expected.physics or (), strict=True):
        assert torch.equal(ours, theirs)


def test_digits_are_those_of_the_source(tmp_path: Path, run: Run) -> None:
    status, out, _ = run("digits", tmp_path, "--train", 7, "--test", 3, "--length", 4, "--seed", 5)
    assert status == 0
    for split, number in (("train", 7), ("test", 3)):
        source = MovingDigits(embedded_digits(split), gentle_motion())
        same(tmp_path / f"{split}.h5", held_out(source, number, 4, derive_seed(split, 5)))
        assert f"{split}.h5: {number} sequences of 4 frames" in out
    with SequenceDataset(tmp_path / "test.h5") as dataset:
        assert dataset.generator == "moving-digits"
        assert dataset.parameters["motion"]["max_speed"] == 2.0
        assert dataset.parameters["split"] == "test" and dataset.parameters["seed"] == 5


def test_motion_is_an_option(tmp_path: Path, run: Run) -> None:
    assert run("digits", tmp_path, "--train", 2, "--test", 0, "--max-digits", 3, "--min-digits", 3)[0] == 0
    with SequenceDataset(tmp_path / "train.h5") as dataset:
        assert dataset.max_objects == 3 and (dataset.read().count == 3).all()
    assert not (tmp_path / "test.h5").exists()


def test_mnist_offline(tmp_path: Path, run: Run, mnist_dir: Path) -> None:
    assert run("mnist", tmp_path, "--mnist", mnist_dir, "--train", 0, "--test", 4, "--length", 3)[0] == 0
    source = MovingDigits(mnist_digits("test", mnist_dir), published_motion())
    same(tmp_path / "test.h5", held_out(source, 4, 3, derive_seed("test", 0)))


MEASURED = """
import sys
from pathlib import Path
from pyro_sqair.cli import main

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

before = peak()
assert main(sys.argv[1:]) == 0
print(before, peak())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_mnist_takes_less_than_500_mb(tmp_path: Path, mnist_dir: Path) -> None:
    """Resident, at most, for the 60,000 + 10,000 sequences: PyTorch, all digits, and a batch as it is streamed."""
    command = [sys.executable, "-c", MEASURED, "data", "mnist", tmp_path, "--mnist", mnist_dir]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.splitlines()[-1].split())
    assert after - before < 220e6
    if torch.version.cuda is None:  # libraries for a GPU would be most of what is resident
        assert after < 500e6


def test_balls_with_more_of_them_to_generalise_to(tmp_path: Path, run: Run) -> None:
    arguments = ("--train", 2, "--test", 2, "--generalise", 3, "--length", 5)
    assert run("balls", tmp_path, *arguments)[0] == 0
    same(tmp_path / "train.h5", held_out(BouncingBalls(four_balls()), 2, 5, derive_seed("train", 0)))
    with SequenceDataset(tmp_path / "generalise.h5") as dataset:
        assert dataset.max_objects == 8 and dataset.read().count.min() >= 6
        assert dataset.layout.physics
    with SequenceDataset(tmp_path / "test.h5") as test, SequenceDataset(tmp_path / "train.h5") as train:
        assert not torch.equal(test.read().boxes, train.read().boxes)


@pytest.mark.parametrize(
    ("words", "colours"),
    [
        ((), ((1.0,),)),
        (("--colours", "0.5"), ((0.5,),)),
        (("--colours", "1,0,0", "0,0.5,1"), ((1.0, 0.0, 0.0), (0.0, 0.5, 1.0))),
    ],
)
def test_colours_of_balls_are_an_option(tmp_path: Path, run: Run, words: tuple, colours: tuple) -> None:
    arguments = ("--train", 2, "--test", 0, "--generalise", 0, "--length", 2)
    assert run("balls", tmp_path, *arguments, *words)[0] == 0
    config = replace(four_balls(), colours=colours)
    same(tmp_path / "train.h5", held_out(BouncingBalls(config), 2, 2, derive_seed("train", 0)))


class TestRefusals:
    """Exit status 1, a line that says why, and no file."""

    def test_nothing_is_overwritten_unasked(self, tmp_path: Path, run: Run) -> None:
        arguments = ("digits", tmp_path, "--train", 2, "--test", 1, "--length", 2)
        (tmp_path / "test.h5").write_text("mine")
        status, _, err = run(*arguments)
        assert status == 1 and "test.h5" in err and "--overwrite" in err
        assert [path.name for path in tmp_path.iterdir()] == ["test.h5"]
        assert (tmp_path / "test.h5").read_text() == "mine"
        assert run(*arguments, "--overwrite")[0] == 0

    def test_no_picture_is_overwritten_unasked(self, tmp_path: Path, run: Run) -> None:
        run("digits", tmp_path, "--train", 1, "--test", 0, "--length", 2)
        (tmp_path / "train.gif").write_text("mine")
        status, _, err = run("show", tmp_path / "train.h5")
        assert status == 1 and "train.gif" in err and "--overwrite" in err
        assert (tmp_path / "train.gif").read_text() == "mine" and not (tmp_path / "train.png").exists()
        assert run("show", tmp_path / "train.h5", "--overwrite")[0] == 0

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("--length", 0), "length >= 1"),
            (("--train", -1), "sequences >= 0"),
            (("--train", 0, "--test", 0), "got none"),
            (("--seed", -1), "seed >= 0"),
            (("--max-digits", 0), "max_digits >= 1"),
        ],
    )
    def test_numbers_out_of_range(
        self, tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str], arguments: tuple, words: str
    ) -> None:
        try:
            status, _, err = run("digits", tmp_path / "out", *arguments)
        except SystemExit as exit:  # tyro's own refusal, in a frame, for what a configuration does not take
            status, err = int(exit.code), " ".join(capsys.readouterr().err.replace("│", " ").split())
        assert status != 0 and words in err
        assert not (tmp_path / "out").exists()

    def test_a_file_in_place_of_the_folder(self, tmp_path: Path, run: Run) -> None:
        (tmp_path / "out").write_text("mine")
        status, _, err = run("digits", tmp_path / "out", "--train", 1, "--overwrite")
        assert status == 1 and "expected a folder to write to, got a file" in err
        assert (tmp_path / "out").read_text() == "mine"

    def test_missing_digit_files(self, tmp_path: Path, run: Run) -> None:
        status, _, err = run("mnist", tmp_path / "out", "--mnist", tmp_path)
        assert status == 1 and "train-images-idx3-ubyte.gz" in err
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("command", ["info", "show"])
    def test_no_file_or_another(self, tmp_path: Path, run: Run, command: str) -> None:
        status, _, err = run(command, tmp_path / "none.h5")
        assert status == 1 and "none.h5" in err
        (tmp_path / "text.h5").write_text("words")
        status, _, err = run(command, tmp_path / "text.h5")
        assert status == 1 and "expected" in err and "text.h5" in err
        assert [path.name for path in tmp_path.iterdir()] == ["text.h5"]

    def test_video_that_is_not_there(self, tmp_path: Path, run: Run) -> None:
        pytest.importorskip("cv2")
        status, _, err = run("video", tmp_path / "none.mp4", tmp_path / "out.h5")
        assert status == 1 and "none.mp4" in err
        assert not list(tmp_path.iterdir())

    def test_sequences_to_show_that_are_not_there(self, tmp_path: Path, run: Run) -> None:
        run("digits", tmp_path, "--train", 2, "--test", 0, "--length", 2)
        status, _, err = run("show", tmp_path / "train.h5", "--first", 2)
        assert status == 1 and "expected first below the 2 sequences" in err


def test_info_says_what_there_is(tmp_path: Path, run: Run) -> None:
    run("digits", tmp_path, "--train", 4, "--test", 0, "--length", 3)
    status, out, _ = run("info", tmp_path / "train.h5")
    assert status == 0
    for words in ("4 of 3 frames", "50 x 50", "moving-digits", "embedded"):
        assert words in out


def test_show_draws_a_sheet_and_an_animation(tmp_path: Path, run: Run) -> None:
    run("digits", tmp_path, "--train", 4, "--test", 0, "--length", 3)
    status, out, _ = run("show", tmp_path / "train.h5", "--out", tmp_path / "pictures", "--sequences", 2)
    assert status == 0
    for name in ("train.png", "train.gif"):
        path = tmp_path / "pictures" / name
        assert str(path) in out
        with Image.open(path) as image:
            image.load()
            assert getattr(image, "n_frames", 1) == (3 if name == "train.gif" else 1)


def test_what_a_command_warns_of_is_said_in_a_line(tmp_path: Path, run: Run) -> None:
    pytest.importorskip("cv2")
    for t in range(20):
        Image.fromarray(np.full((64, 64), 180, dtype=np.uint8)).save(tmp_path / f"{t}.png")
    options = ("--min-objects", 0, "--sequences", 30, "--size", 64, 64, "--validation-fraction", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        status, _, err = run("video", tmp_path, tmp_path / "out.h5", *options)
    (line,) = (line for line in err.splitlines() if "warning" in line.lower())
    # One place for the crop, and 16 frames to begin at.
    assert status == 0
    assert line.startswith("pyro-sqair: warning: expected 30 random crops") and line.endswith("found only 16")


def test_a_folder_of_images_becomes_sequences(tmp_path: Path, run: Run) -> None:
    """Without ground truth; a dark square crosses a bright floor and comes out bright on black."""
    pytest.importorskip("cv2")
    frames = tmp_path / "frames"
    frames.mkdir()
    for t in range(40):
        picture = np.full((64, 96), 180, dtype=np.uint8)
        picture[20:36, 2 * t : 2 * t + 8] = 20
        Image.fromarray(picture).save(frames / f"{t}.png")
    options = ("--crop", 48, "--sequences", 10, "--size", 96, 64, "--validation-fraction", 0.25)
    status, out, _ = run("video", frames, tmp_path / "out.h5", *options)
    assert status == 0 and "out-val.h5" in out
    with SequenceDataset(tmp_path / "out.h5") as dataset:
        sequences = dataset.read()
        assert dataset.parameters["video_frames"] == 40
        assert json.dumps(dataset.parameters)
    assert (sequences.count == -1).all() and not sequences.present.any()
    assert sequences.frames.max() > 0.8 and (sequences.frames == 0).float().mean() > 0.7
