# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""`pyro-sqair data`: the files that its commands write, and refusals before anything is written."""

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
    """Runs a command; returns its exit status, standard output and standard error."""

    def command(*arguments: object) -> tuple[int, str, str]:
        status = main(["data", *map(str, arguments)])
        return status, *capsys.readouterr()

    return command


def same(path: Path, expected) -> None:
    """Asserts that the file holds exactly these sequences."""
    for ours, theirs in zip(SequenceDataset(path).read(), expected, strict=True):
        assert (ours is None) == (theirs is None) and (ours is None or torch.equal(ours, theirs))


def test_digits_are_those_of_the_source(tmp_path: Path, run: Run) -> None:
    status, out, _ = run("digits", tmp_path, "--train", 7, "--test", 3, "--length", 4, "--seed", 5)
    assert status == 0
    for split, number in (("train", 7), ("test", 3)):
        source = MovingDigits(embedded_digits(split), gentle_motion())
        same(tmp_path / f"{split}.h5", held_out(source, number, 4, derive_seed(split, 5)))
        assert f"{split}.h5: {number} sequences of 4 frames" in out
    layout = SequenceDataset(tmp_path / "test.h5").layout
    assert layout.generator == "moving-digits" and layout.parameters["motion"]["max_speed"] == 2.0
    assert layout.parameters["split"] == "test" and layout.parameters["seed"] == 5


def test_motion_is_an_option(tmp_path: Path, run: Run) -> None:
    assert run("digits", tmp_path, "--train", 2, "--test", 0, "--max-digits", 3, "--min-digits", 3)[0] == 0
    dataset = SequenceDataset(tmp_path / "train.h5")
    assert dataset.layout.max_objects == 3 and (dataset.read().count == 3).all()
    assert not (tmp_path / "test.h5").exists()


def test_mnist_offline(tmp_path: Path, run: Run, mnist_dir: Path) -> None:
    assert run("mnist", tmp_path, "--mnist", mnist_dir, "--train", 0, "--test", 4, "--length", 3)[0] == 0
    source = MovingDigits(mnist_digits("test", mnist_dir), published_motion())
    same(tmp_path / "test.h5", held_out(source, 4, 3, derive_seed("test", 0)))


MEASURED = """
import sys
from pathlib import Path
import pyro_sqair.cli.commands
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
    """Peak resident memory for 60,000 + 10,000 sequences: PyTorch, all digits and one batch."""
    command = [sys.executable, "-c", MEASURED, "data", "mnist", tmp_path, "--mnist", mnist_dir]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.splitlines()[-1].split())
    assert after - before < 220e6
    if torch.version.cuda is None:  # GPU libraries would take most of the memory
        assert after < 500e6


def test_balls_and_more_balls_for_generalisation(tmp_path: Path, run: Run) -> None:
    arguments = ("--train", 2, "--test", 2, "--generalise", 3, "--length", 5)
    assert run("balls", tmp_path, *arguments)[0] == 0
    same(tmp_path / "train.h5", held_out(BouncingBalls(four_balls()), 2, 5, derive_seed("train", 0)))
    train, test, more = (SequenceDataset(tmp_path / f"{name}.h5") for name in ("train", "test", "generalise"))
    assert more.layout.max_objects == 8 and more.read().count.min() >= 6 and more.layout.collisions
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
    """Exit status 1, a line with the reason, and no file."""

    def test_files_are_not_overwritten_without_permission(self, tmp_path: Path, run: Run) -> None:
        arguments = ("digits", tmp_path, "--train", 2, "--test", 1, "--length", 2)
        (tmp_path / "test.h5").write_text("mine")
        status, _, err = run(*arguments)
        assert status == 1 and "test.h5" in err and "--overwrite" in err
        assert [path.name for path in tmp_path.iterdir()] == ["test.h5"]
        assert (tmp_path / "test.h5").read_text() == "mine"
        assert run(*arguments, "--overwrite")[0] == 0

    def test_missing_sequences_and_overwriting_pictures_without_permission(self, tmp_path: Path, run: Run) -> None:
        run("digits", tmp_path, "--train", 1, "--test", 0, "--length", 2)
        (tmp_path / "train.gif").write_text("mine")
        status, _, err = run("show", tmp_path / "train.h5")
        assert status == 1 and "train.gif" in err and "--overwrite" in err
        assert (tmp_path / "train.gif").read_text() == "mine" and not (tmp_path / "train.png").exists()
        assert run("show", tmp_path / "train.h5", "--overwrite")[0] == 0
        status, _, err = run("show", tmp_path / "train.h5", "--first", 1, "--overwrite")
        assert status == 1 and "expected first below the 1 sequences" in err

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
        except SystemExit as exit:  # tyro reports invalid configurations in a box
            status, err = int(exit.code), " ".join(capsys.readouterr().err.replace("│", " ").split())
        assert status != 0 and words in err
        assert not (tmp_path / "out").exists()

    def test_a_file_where_the_folder_should_be_and_missing_digits(self, tmp_path: Path, run: Run) -> None:
        status, _, err = run("mnist", tmp_path / "out", "--mnist", tmp_path)
        assert status == 1 and "train-images-idx3-ubyte.gz" in err and not (tmp_path / "out").exists()
        (tmp_path / "out").write_text("mine")
        status, _, err = run("digits", tmp_path / "out", "--train", 1, "--overwrite")
        assert status == 1 and "expected a folder to write to, got a file" in err
        assert (tmp_path / "out").read_text() == "mine"

    @pytest.mark.parametrize("fps", [0.001, 1000])
    def test_a_failing_animation_leaves_no_picture(self, tmp_path: Path, run: Run, fps: float) -> None:
        run("digits", tmp_path, "--train", 1, "--test", 0, "--length", 2)
        (tmp_path / "train.png").write_text("mine")
        status, _, err = run("show", tmp_path / "train.h5", "--fps", fps, "--overwrite")
        assert status == 1 and f"expected fps from 0.002 to 100, as a GIF can have, got {float(fps)}" in err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["train.h5", "train.png"]
        assert (tmp_path / "train.png").read_text() == "mine"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("digits out --canvas 0", "expected canvas from 1 to 512 and tries from 1 to 1000, got 0 and 5"),
            ("mnist out --max-speed nan", "expected max_speed from 0 to 1e6, where float32 resolves a pixel, got nan"),
            ("balls out --masses 0 1", "expected finite, positive masses, got (0.0, 1.0)"),
            ("video in out.h5 --blur -1", "expected a finite blur of at least 0, got -1.0"),
        ],
    )
    def test_settings(self, run: Run, arguments: str, message: str) -> None:
        assert run(*arguments.split()) == (1, "", f"pyro-sqair: {message}\n")

    @pytest.mark.parametrize("command", ["info", "show"])
    def test_missing_and_other_files(self, tmp_path: Path, run: Run, command: str) -> None:
        status, _, err = run(command, tmp_path / "none.h5")
        assert status == 1 and "none.h5" in err
        (tmp_path / "text.h5").write_text("words")
        status, _, err = run(command, tmp_path / "text.h5")
        assert status == 1 and "expected" in err and "text.h5" in err
        assert [path.name for path in tmp_path.iterdir()] == ["text.h5"]

    def test_a_missing_video(self, tmp_path: Path, run: Run) -> None:
        pytest.importorskip("cv2")
        status, _, err = run("video", tmp_path / "none.mp4", tmp_path / "out.h5")
        assert status == 1 and "none.mp4" in err
        assert not list(tmp_path.iterdir())


def test_info_describes_and_show_draws_a_file(tmp_path: Path, run: Run) -> None:
    run("digits", tmp_path, "--train", 4, "--test", 0, "--length", 3, "--min-digits", 2, "--seed", 5)
    status, out, _ = run("info", tmp_path / "train.h5")
    assert status == 0
    assert out.startswith(
        f"{tmp_path / 'train.h5'}\n  sequences  4 of 3 frames\n  frames     50 x 50 px, 1 channel\n"
        "  objects    at most 2 in a frame\n  collisions not annotated\n  generator  moving-digits\n"
        f'  seed       {derive_seed("train", 5)}\n  parameters {{"digits": "embedded", '
    )
    status, out, _ = run("show", tmp_path / "train.h5", "--out", tmp_path / "pictures", "--sequences", 2)
    assert status == 0
    for name in ("train.png", "train.gif"):
        path = tmp_path / "pictures" / name
        assert str(path) in out
        with Image.open(path) as image:
            image.load()
            assert getattr(image, "n_frames", 1) == (3 if name == "train.gif" else 1)


def test_warnings_are_printed_on_one_line(tmp_path: Path, run: Run) -> None:
    pytest.importorskip("cv2")
    for t in range(20):
        Image.fromarray(np.full((64, 64), 180, dtype=np.uint8)).save(tmp_path / f"{t}.png")
    options = ("--min-objects", 0, "--sequences", 30, "--size", 64, 64, "--validation-fraction", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        status, _, err = run("video", tmp_path, tmp_path / "out.h5", *options)
    (line,) = (line for line in err.splitlines() if "warning" in line.lower())
    # One position for the crop, and 16 first frames.
    assert status == 0
    assert line.startswith("pyro-sqair: warning: expected 30 random crops") and line.endswith("found only 16")
