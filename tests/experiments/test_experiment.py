# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Runs are trained, continued and loaded; errors name missing, damaged and foreign files."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

import pyro_sqair
from pyro_sqair.data import MotionConfig
from pyro_sqair.experiments import DigitVideos, Experiment, Interrupted, SQAIRSystem
from pyro_sqair.models import RandomWalkPrior
from pyro_sqair.scene import SceneConfig
from pyro_sqair.training import TrainingConfig
from pyro_sqair.training.device import choose_device

TINY = Experiment(
    name="tiny",
    videos=DigitVideos("embedded", MotionConfig(canvas=32, max_digits=1)),
    scene=SceneConfig(num_slots=1, what_dim=2, image_size=(32, 32), glimpse_size=(8, 8)),
    system=SQAIRSystem(hidden_size=4),
    training=TrainingConfig(steps=3, batch_size=2, num_particles=2, curriculum=((2, 1.0),), ema_decay=0.5),
    test_frames=3,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    TINY.train(out, device="cpu", progress=False)
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of a trained run, to be modified."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def evaluate(pair: tuple[torch.nn.Module, torch.nn.Module]) -> torch.Tensor:
    torch.manual_seed(0)
    frames = TINY.held_out(4).frames
    return pyro_sqair.evaluate_bounds(*pair, frames, num_particles=3).iwae.value


class TestLoad:
    def test_averaged_weights_from_two_files(self, trained: Path, tmp_path: Path) -> None:
        for name in ("experiment.json", "weights.safetensors"):
            shutil.copy(trained / name, tmp_path)
        state = torch.get_rng_state()
        experiment, model, guide = pyro_sqair.load(tmp_path)
        assert torch.equal(torch.get_rng_state(), state)
        assert experiment == TINY
        assert not model.training and not guide.training
        assert guide.discovery.encoder is model.discovery_prior.encoder
        average = torch.load(trained / "checkpoint.pt", weights_only=True)["average"]
        assert average and all(
            torch.equal(dict(torch.nn.ModuleDict({"model": model, "guide": guide}).named_parameters())[name], value)
            for name, value in average.items()
        )
        again = TINY.train(trained, device="cpu", progress=False)  # finished: only loaded
        assert torch.equal(evaluate(again[1:]), evaluate((model, guide)))

    def test_folders_that_are_not_runs(self, run: Path, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="expected the folder of a run, found none: .*nowhere"):
            pyro_sqair.load(tmp_path / "nowhere")
        with pytest.raises(FileNotFoundError, match="found a file: .*log.jsonl"):
            pyro_sqair.load(run / "log.jsonl")
        (run / "weights.safetensors").unlink()
        with pytest.raises(FileNotFoundError, match=r"weights.safetensors in .*run, found \['.lock', 'checkpoint.pt"):
            pyro_sqair.load(run)
        (tmp_path / "empty").mkdir()
        with pytest.raises(FileNotFoundError, match="experiment.json in .*empty, found an empty folder"):
            pyro_sqair.load(tmp_path / "empty")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "expected an experiment as JSON"),
            ('{"format": 1, "exper', "expected an experiment as JSON"),
            ("\ufffd\x00", "expected an experiment as JSON"),
            ("[1, 2]", "expected an experiment with its format, got something else"),
            ('{"training": {}}', "expected an experiment with its format, got something else"),
            ('{"format": 3, "pyro_sqair": "9.0", "experiment": {}}', "format 2, got 3, written by pyro_sqair 9.0"),
            ('{"format": 2, "experiment": {"type": "Preset"}}', "expected type Experiment, got 'Preset'"),
        ],
    )
    def test_damaged_experiments(self, run: Path, content: str, message: str) -> None:
        (run / "experiment.json").write_text(content)
        with pytest.raises(ValueError, match=f"{message}.*experiment.json"):
            pyro_sqair.load(run)

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ('"hidden_size": 4', '"hidden_size": 5', "system.hidden_size: expected 5, got 4"),
            ('"hidden_size": 4', f'"hidden_size": {10**20}', "experiment.system: expected hidden_size from 1 .*json"),
            ('"max_speed": 10.0', '"max_speed": 9.0', "videos.motion.max_speed: expected 9.0, got 10.0"),
            ('"learning_rate": 0.001', '"learning_rate": 0.1', "training.learning_rate: expected 0.1, got 0.001"),
            ('"ema_decay": 0.5', f'"ema_decay": {10**400}', "experiment.json"),
            ('"seed": 0', f'"seed": {2**70}', "expected seed to be below .*experiment.json"),
            ('"test_frames": 3', '"test_frames": 0', "expected test_frames of at least 1, got 0; in .*experiment.json"),
        ],
    )
    def test_an_edited_experiment(self, run: Path, old: str, new: str, message: str) -> None:
        path = run / "experiment.json"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
        with pytest.raises(ValueError, match=f"(?s){message}"):
            pyro_sqair.load(run)


class TestTrain:
    def test_programs_have_the_weights_of_the_seed(self) -> None:
        state = torch.get_rng_state()
        first, second = TINY.programs()[1].state_dict(), TINY.programs()[1].state_dict()
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(first[name], second[name]) for name in first)
        third = TINY.with_training(seed=1).programs()[1].state_dict()
        assert not all(torch.equal(first[name], third[name]) for name in first)

    def test_interrupted_and_continued(self, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        sample = DigitVideos.source
        drawn = []

        def source(self: DigitVideos, *arguments: object) -> object:
            made = sample(self, *arguments)

            def interrupt(*arguments: object) -> object:
                drawn.append(arguments)
                if len(drawn) == 2:
                    os.kill(os.getpid(), signal.SIGINT)
                return type(made).sample(made, *arguments)

            monkeypatch.setattr(made, "sample", interrupt) if arguments[0] == "train" else None
            return made

        monkeypatch.setattr(DigitVideos, "source", source)
        with pytest.raises(Interrupted) as stop:
            TINY.train(tmp_path, device="cpu", progress=False)
        assert stop.value.code == 130
        _, *pair = TINY.train(tmp_path, device="cpu", progress=False)
        assert torch.equal(evaluate(pair), evaluate(pyro_sqair.load(trained)[1:]))

    def test_a_folder_of_another_experiment(self, run: Path) -> None:
        before = {path: path.read_bytes() for path in run.iterdir()}
        slow = MotionConfig(canvas=32, max_digits=1, max_speed=1.0)
        for other, entry in (
            (replace(TINY, videos=DigitVideos("embedded", slow)), "videos.motion.max_speed: expected 1.0, got 10.0"),
            (TINY.with_training(steps=4), "training.steps: expected 4, got 3"),
        ):
            with pytest.raises(ValueError, match=f"(?s)expected the settings of this experiment.*{entry}"):
                other.train(run, device="cpu", progress=False)
        assert {path: path.read_bytes() for path in run.iterdir()} == before
        same = TINY.with_training(checkpoint_every=1, validate_every=2)  # does not change what is learned
        replace(same, name="other").train(run, device="cpu", progress=False)

    def test_a_foreign_file_is_not_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "experiment.json").write_text(json.dumps({"lab": "notes"}))
        with pytest.raises(ValueError, match="something else in .*experiment.json"):
            TINY.train(tmp_path, device="cpu", progress=False)
        assert [path.name for path in tmp_path.iterdir()] == ["experiment.json"]

    def test_custom_programs(self, tmp_path: Path) -> None:
        def programs() -> tuple:
            model, guide = TINY.programs()
            model.propagation_prior = RandomWalkPrior(2, 6)
            return model, guide

        _, *pair = TINY.train(tmp_path, device="cpu", programs=programs(), progress=False)
        with pytest.raises(ValueError, match="expected `programs`, the model and guide that 'tiny'"):
            pyro_sqair.load(tmp_path)
        experiment, *loaded = pyro_sqair.load(tmp_path, programs=programs())
        assert experiment == replace(TINY, custom=True)
        assert torch.equal(evaluate(loaded), evaluate(pair))
        with pytest.raises(ValueError, match="propagation_prior.gru.cell.bias_hh: expected"):
            pyro_sqair.load(tmp_path, programs=TINY.programs())
        with pytest.raises(ValueError, match="custom: expected False, got True"):
            TINY.train(tmp_path, device="cpu", progress=False)
        with pytest.raises(ValueError, match="expected `programs`"):
            experiment.train(tmp_path / "new", device="cpu", progress=False)
        not_a_pair = r"expected `programs` to be a pair \(model, guide\), got SQAIR"
        with pytest.raises(ValueError, match=not_a_pair):
            pyro_sqair.load(tmp_path, programs=programs()[0])
        with pytest.raises(ValueError, match=not_a_pair):
            TINY.train(tmp_path / "new", device="cpu", programs=programs()[0], progress=False)
        other = replace(TINY, scene=replace(TINY.scene, num_slots=2)).programs()
        with pytest.raises(ValueError, match="expected programs for .*num_slots=1.* got one for .*num_slots=2"):
            TINY.train(tmp_path / "new", device="cpu", programs=other, progress=False)

    def test_a_crash_leaves_no_checkpoint_without_weights(self, trained: Path, tmp_path: Path, monkeypatch) -> None:
        full = Mock(side_effect=OSError(28, "disk full"))
        monkeypatch.setattr("pyro_sqair.training.folder.save_weights", full)
        with pytest.raises(OSError, match="disk full"):
            TINY.train(tmp_path, device="cpu", progress=False)
        monkeypatch.undo()
        assert not (tmp_path / "checkpoint.pt").exists()
        _, *pair = TINY.train(tmp_path, device="cpu", progress=False)
        assert torch.equal(evaluate(pair), evaluate(pyro_sqair.load(trained)[1:]))

    def test_more_objects_than_slots(self) -> None:
        with pytest.raises(ValueError, match="expected at least 2 slots, .* got 1"):
            replace(TINY, videos=DigitVideos("embedded", MotionConfig()))


@pytest.mark.parametrize("name", ["gpu", "CUDA", "mps", "", "cpu:cpu", "cuda:99"])
def test_unknown_and_missing_devices(name: str) -> None:
    with pytest.raises(ValueError, match=f"expected a device .* got '{name}'"):
        choose_device(name)


def test_public_names_are_imported_when_first_used() -> None:
    program = "import sys, pyro_sqair as p; assert 'torch' not in sys.modules; [getattr(p, n) for n in dir(p)]; p.load"
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'nonesuch'"):
        pyro_sqair.nonesuch  # noqa: B018
