# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""`pyro-sqair fit-prior`: from a run to a new run."""

import re
import sys
from pathlib import Path

import pytest

import pyro_sqair
from pyro_sqair.cli import main
from pyro_sqair.cli.fit_prior import FitPrior
from pyro_sqair.data import MotionConfig
from pyro_sqair.experiments import DigitVideos, Experiment, SQAIRSystem
from pyro_sqair.scene import SceneConfig
from pyro_sqair.training import TrainingConfig

SMALL = "--steps 2 --scenes 20 --sequences 4 --threads 1 --device cpu".split()
STILL = """
import pyro, pyro.distributions as dist

def still(previous, memory, slots):
    for i in slots:
        pyro.sample("pres", dist.Bernoulli(previous.pres.new_tensor(0.5)))
        pyro.sample("where", dist.Normal(previous.where[..., i, :], 1.0).to_event(1))
        pyro.sample("what", dist.Normal(previous.what[..., i, :], 1.0).to_event(1))
"""


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained run in the current folder, `run`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    scene = SceneConfig(num_slots=2, what_dim=2, image_size=(32, 32), glimpse_size=(8, 8))
    training = TrainingConfig(steps=1, batch_size=2, num_particles=2, curriculum=((3, 1.0),))
    videos = DigitVideos("embedded", MotionConfig(canvas=32, max_digits=1))
    experiment = Experiment("tiny", videos, scene, SQAIRSystem(hidden_size=4), training, test_frames=3)
    experiment.train("run", device="cpu", progress=False)
    return Path("run")


def figures(output: str) -> dict[str, list[float]]:
    """The rows "before" and "after" of the table: ELBO, IWAE and KL."""
    rows = re.findall(r"^(before|after) +(\S+) +(\S+) +(\S+)$", output, re.MULTILINE)
    return {name: [float(value) for value in values] for name, *values in rows}


def test_fits_compares_and_is_finished(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit-prior", "run", *SMALL, "--relations", "in"]) == 0
    output = capsys.readouterr().out
    assert (
        "20 scenes of 3 frames, 0.00672 MB; 2 of test videos are held out" in output
    )  # 4 * 20 * 3 * 2 phases * 2 slots * (5 + 2)
    assert len(re.findall(r"^held-out log p (?:before|after) the fit: discovery .* propagation", output, re.M)) == 2
    found = figures(output)
    (elbo, _, kl), (new_elbo, _, new_kl) = found["before"], found["after"]
    assert new_elbo - elbo == pytest.approx(kl - new_kl, abs=0.21)  # rounded to a tenth
    assert output.endswith("run-in\n")
    assert pyro_sqair.load("run-in").experiment.system.fitted.relations is not None
    assert main(["fit-prior", "run", *SMALL, "--relations", "in"]) == 0
    output = capsys.readouterr().out
    assert "run-in is finished" in output and figures(output) == found


def test_a_prior_in_the_current_folder(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.py").write_text(STILL)
    assert main(["fit-prior", "run", *SMALL, "--propagation", "mine:still", "--part", "discovery"]) == 1
    assert main(["fit-prior", "run", *SMALL, "--propagation", "mine:still"]) == 0
    assert "programs=experiment.system.programs(experiment.scene)" in capsys.readouterr().out
    assert Path("run-still", "weights.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "folder"),
    [
        ({}, "runs/demo-fitted"),
        ({"propagation": "gru"}, "runs/demo-gru"),
        ({"propagation": "guided-walk", "relations": "rmc"}, "runs/demo-guided-walk-rmc"),
        ({"propagation": "my.priors:Physics"}, "runs/demo-Physics"),
        ({"relations": "none", "out": Path("here")}, "here"),
    ],
)
def test_the_default_folder(options: dict[str, str], folder: str) -> None:
    assert FitPrior(Path("runs/demo"), **options).folder == Path(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--propagation nonesuch:f", "got 'nonesuch:f' (No module named 'nonesuch')"),
        ("--sequences 0", "expected sequences of at least 1, got 0"),
        ("--scenes 2", "expected at least 20 scenes, got 2"),
        ("--length 1", "expected scenes of at least two frames"),
    ],
)
def test_invalid_options(options: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit-prior", "run", *SMALL, "--out", "new", *options.split()]) == 1
    assert message in capsys.readouterr().err
    assert not Path("new").exists()
    assert main(["fit-prior", "none", *SMALL]) == 1
    assert "expected the folder of a run, found none: none" in capsys.readouterr().err
