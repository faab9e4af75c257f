# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Every example runs, with settings so small that it takes seconds."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "moving_mnist.py": ["--steps", "2", "--sequences", "4"],
    "swap_guide.py": ["--steps", "2", "--sequences", "4", "--threads", "1"],
    "bouncing_balls.py": ["--steps", "2", "--sequences", "4", "--relations", "none", "memory"],
    "custom_prior.py": ["--steps", "2", "--fit", "2"],
    "air_estimators.py": ["--seconds", "0.1"],
}


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs an example as a user would."""
    command = [sys.executable, str(ROOT / "examples" / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def output(script: str, *arguments: str) -> str:
    """The output of an example that succeeds with its small settings."""
    result = run(script, *SMALL[script], *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_example_is_run_and_short() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in (ROOT / "examples").glob("*.py")}
    assert lengths.keys() == SMALL.keys()
    assert max(lengths.values()) <= 80, lengths


def test_moving_mnist_trains_reports_and_continues(tmp_path: Path) -> None:
    arguments = ["--threads", "1", "--out", str(tmp_path / "run")]
    first = output("moving_mnist.py", *arguments)
    made = {path.name for path in (tmp_path / "run").iterdir()}
    pictures = {"tracks.png", "tracks.gif", "prediction.png", "samples.png", "curves.png"}
    files = {".lock", "metrics.json", "log.jsonl", "experiment.json", "weights.safetensors", "checkpoint.pt"}
    assert made == pictures | files
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["steps"] == 2
    assert len(metrics["count_accuracy_per_frame"]) == 10
    assert metrics["kl"] == pytest.approx(metrics["reconstruction"] - metrics["elbo"], rel=1e-4)
    for line in ("count accuracy", "IWAE K=100", "tracks.png"):
        assert line in first

    # The run is finished, and one sequence is enough for a report.
    assert "is finished, at step 2" in output("moving_mnist.py", *arguments, "--sequences", "1")
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["seconds"] == metrics["seconds"]


@pytest.mark.parametrize(
    ("preset", "words"), [("mnist", "moving-mnist"), ("moving-mnist", "train-images-idx3-ubyte.gz")]
)
def test_unknown_presets_and_missing_mnist_files(tmp_path: Path, preset: str, words: str) -> None:
    arguments = ["--preset", preset, "--mnist", str(tmp_path), "--out", str(tmp_path / "run")]
    result = run("moving_mnist.py", *arguments)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert result.stderr.startswith("moving_mnist.py: ") and words in result.stderr
    assert not (tmp_path / "run").exists()


def test_air_estimators_report_a_count_accuracy_each() -> None:
    found = re.findall(r"^ *(\S+): count accuracy [01]\.\d{3}$", output("air_estimators.py"), re.MULTILINE)
    assert found == ["RenyiELBO(alpha=0)", "VIMCO(5)", "OVIS(5)", "RWS(5)"]


def test_swap_guide_compares_two_guides(tmp_path: Path) -> None:
    stdout = output("swap_guide.py", "--out", str(tmp_path))
    names = ("paper", "no-proposal")
    assert {path.name for path in tmp_path.iterdir()} == {*names}
    rows = [line.split() for line in stdout.splitlines() if line.split()[0] in names]
    assert [name for name, *values in rows if len(values) == 3] == list(names)
    assert all(0 <= float(accuracy) <= 1 and float(time) > 0 for _, accuracy, _, time in rows)


def test_bouncing_balls_simulates_four_and_more(tmp_path: Path) -> None:
    output("bouncing_balls.py", "--threads", "1", "--out", str(tmp_path))
    found = json.loads((tmp_path / "simulation.json").read_text())
    assert found.keys() == {"none", "memory"}
    for kind, settings in found.items():
        assert settings.keys() == {"4 balls", "6-8 balls"}
        for name, figures in settings.items():
            assert {"data", "relational", "relational_std", "error", "count_accuracy"} <= figures.keys()
            assert (tmp_path / kind / f"{name.replace(' ', '-')}.png").exists()
    assert (tmp_path / "relational.png").exists()


def test_custom_prior_compares_five(tmp_path: Path) -> None:
    stdout = output("custom_prior.py", "--threads", "1", "--out", str(tmp_path))
    names = ["random walk", "GRU", "constant velocity", "GRU, relations", "physics"]
    rows = re.findall(r"^(\w[\w, ]*?) +-?\d+\.\d+ \+- \d+\.\d+ +\d+\.\d\d +\d+\.\d\d$", stdout, re.MULTILINE)
    assert rows == names
    assert {"errors.png", "guide", *names} <= {path.name for path in tmp_path.iterdir()}
