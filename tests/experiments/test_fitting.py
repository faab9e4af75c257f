# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Priors of trained runs that are fitted alone: what changes, what stays, and errors."""

import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import pyro_sqair
from pyro_sqair.data import BouncingBalls, MotionConfig, four_balls, write_sequences
from pyro_sqair.experiments import (
    AIRSystem,
    CustomPrior,
    DigitVideos,
    Experiment,
    FileVideos,
    FittedPrior,
    Interrupted,
    Run,
    SQAIRSystem,
    VRNNSystem,
    file_experiment,
    fit_run,
    fitting,
)
from pyro_sqair.experiments.report import evaluate, write_report
from pyro_sqair.models import GRUPropagationPrior, GuidedWalkConfig, RandomWalkConfig
from pyro_sqair.nn.backbone import VRNNConfig
from pyro_sqair.nn.relations import InteractionConfig
from pyro_sqair.scene import SceneConfig
from pyro_sqair.training import Bank, TrainingConfig, fit_prior
from pyro_sqair.training.weights import read_header

TINY = Experiment(
    name="tiny",
    videos=DigitVideos("embedded", MotionConfig(canvas=32, max_digits=1)),
    scene=SceneConfig(num_slots=2, what_dim=2, image_size=(32, 32), glimpse_size=(8, 8)),
    system=SQAIRSystem(hidden_size=4, relations=InteractionConfig(3)),
    training=TrainingConfig(steps=2, batch_size=2, num_particles=2, curriculum=((2, 0.5), (3, 0.5))),
    test_frames=3,
)

PRIORS = """
import pyro, pyro.distributions as dist, torch

class Drift(torch.nn.Module):
    size = 4

    def __init__(self, what_dim):
        super().__init__()
        self.drift, self.noise = torch.nn.Parameter(torch.rand(self.size)), torch.ones(what_dim)

    def forward(self, previous, memory, slots):
        for i in slots:
            pyro.sample("pres", dist.Bernoulli(previous.pres.new_tensor(0.5)))
            pyro.sample("where", dist.Normal(previous.where[..., i, : self.size] + self.drift, 1.0).to_event(1))
            pyro.sample("what", dist.Normal(previous.what[..., i, :], self.noise).to_event(1))

class Broad(Drift):
    size = 3

class Windy(Drift):
    def forward(self, previous, memory, slots):
        pyro.sample("wind", dist.Normal(self.drift, 1.0).to_event(1))
        super().forward(previous, memory, slots)

def still(previous, memory, slots):
    return Drift.forward(Still, previous, memory, slots)

class Still:
    size, drift, noise = 4, 0.0, torch.ones(2)
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    TINY.train(out, device="cpu", progress=False)
    return out


@pytest.fixture
def priors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module `priors` on the Python path, imported anew."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "priors.py").write_text(PRIORS)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.delitem(sys.modules, "priors", raising=False)


def fit(run: Path, out: Path, **options: Any) -> Run:
    small = {"steps": 3, "scenes": 20, "device": "cpu", "progress": False}
    return fit_run(run, out, **small | options)


def equal(ours: torch.nn.Module, theirs: torch.nn.Module) -> bool:
    first, second = ours.state_dict(), theirs.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_only_the_prior_changes(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, (experiment, model, guide) = pyro_sqair.load(tiny), fit(tiny, tmp_path)
    assert equal(guide, before.guide) and equal(model.renderer, before.model.renderer)
    assert not set(model.parameters()) & set(guide.parameters())
    assert set(before.model.parameters()) & set(before.guide.parameters())
    fitted = experiment.system.fitted
    assert (fitted.propagation, fitted.relations) == (TINY.system.propagation, TINY.system.relations)
    assert fitted.start == read_header(tiny / "weights.safetensors").checksum and fitted.length == 3
    loaded = pyro_sqair.load(tmp_path)
    assert loaded.experiment == experiment and equal(loaded.model, model) and equal(loaded.guide, guide)
    assert equal(fit(tiny, tmp_path, progress=True).model, model)
    assert f"{tmp_path} is finished" in capsys.readouterr().out
    # Given the guide, the ELBO depends on the priors only through E_q[log p(z)].
    old, new = (evaluate(*run[1:], TINY.held_out(8), (2,)) for run in (before, loaded))
    assert new["reconstruction"] == old["reconstruction"] and new["kl"] != old["kl"]
    assert new["elbo"] - old["elbo"] == pytest.approx(old["kl"] - new["kl"], abs=1e-3)
    assert write_report(loaded, tmp_path, sequences=4, progress=False)["steps"] == 3
    with pytest.raises(ValueError, match="expected an experiment to train, got 'tiny' with a prior that is fitted alo"):
        experiment.train(tmp_path, device="cpu", progress=False)


def test_the_bank_is_drawn_from_the_guide_and_held_out(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []

    def record(prior: object, bank: Bank, *arguments: Any) -> object:
        used.append((bank, arguments[2]))
        return fit_prior(prior, bank, *arguments)

    monkeypatch.setattr(fitting, "fit_prior", record)
    fit(tiny, tmp_path, scenes=30, length=2, seed=5)
    guide, banks = pyro_sqair.load(tiny).guide, []
    for split, scenes, seed in (("train", 30, 5), ("test", 3, 6)):
        banks.append(pyro_sqair.training.draw_bank(guide, TINY.source(split), scenes, 2, seed, False))
    ((train, held_out),) = used
    assert torch.equal(train.draws, banks[0].draws) and torch.equal(held_out.draws, banks[1].draws)


def test_code_that_only_a_file_names_is_not_run() -> None:
    fitted = FittedPrior(CustomPrior("os:getcwd"), None, "both", pyro_sqair.training.fitting(), 99, "ab12")
    with pytest.raises(ValueError, match="expected custom=True with the code of 'os:getcwd', got False"):
        replace(TINY, system=replace(TINY.system, fitted=fitted))


@pytest.mark.parametrize("part", ["discovery", "propagation"])
def test_one_part(tiny: Path, tmp_path: Path, part: str) -> None:
    model, before = fit(tiny, tmp_path, part=part).model, pyro_sqair.load(tiny).model
    for name in ("discovery", "propagation"):
        assert equal(getattr(model, f"{name}_prior"), getattr(before, f"{name}_prior")) == (name != part)


def test_a_propagation_prior_starts_from_the_run_s_or_fresh(tiny: Path, tmp_path: Path) -> None:
    def start(name: str, **options: str) -> GRUPropagationPrior:
        return fit(tiny, tmp_path / name, steps=1, **options).model.propagation_prior  # an Adam step of 0.003

    own = pyro_sqair.load(tiny).model.propagation_prior.readout.weight
    torch.testing.assert_close(start("own").readout.weight, own, atol=0.0031, rtol=0)
    torch.testing.assert_close(start("gru", propagation="gru").readout.weight, own, atol=0.0031, rtol=0)
    assert (start("walk", propagation="guided-walk").readout.weight - own).abs().max() > 0.01
    alone = start("alone", relations="none")
    assert alone.relations.size == 0 and (alone.readout.weight - own).abs().max() > 0.01
    again = fit(tmp_path / "alone", tmp_path / "again", steps=1)  # of a fitted run
    assert again.experiment.system.fitted.relations is None
    torch.testing.assert_close(again.model.propagation_prior.readout.weight, alone.readout.weight, atol=0.0031, rtol=0)
    assert fitting._propagation("guided-walk", RandomWalkConfig(-3.0)) == GuidedWalkConfig(-3.0)


def test_interrupted_and_continued(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample, drawn = Bank.sample, []

    def interrupt(*arguments: Any) -> object:
        drawn.append(arguments)
        if len(drawn) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return sample(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Bank, "sample", interrupt)
        fit(tiny, tmp_path / "stopped")
    with pytest.raises(FileNotFoundError, match="expected a run with weights.safetensors in .*stopped"):
        pyro_sqair.load(tmp_path / "stopped")
    continued, whole = fit(tiny, tmp_path / "stopped"), fit(tiny, tmp_path / "whole")
    assert equal(continued.model, whole.model)


def test_a_folder_of_another_fit(tiny: Path, tmp_path: Path) -> None:
    fit(tiny, tmp_path / "out")
    for options, entry in (
        ({"seed": 1}, "system.fitted.training.seed: expected 1, got 0"),
        ({"steps": 4}, "system.fitted.training.steps: expected 4, got 3"),
        ({"scenes": 21}, "system.fitted.scenes: expected 21, got 20"),
        ({"relations": "none"}, "system.fitted.relations: expected None, got 'InteractionConfig'|fitted.relations.*"),
    ):
        with pytest.raises(ValueError, match=f"(?s)expected the settings of this experiment.*{entry}"):
            fit(tiny, tmp_path / "out", **options)
    with pytest.raises(ValueError, match="(?s)expected the settings of this experiment.*system.fitted"):
        fit(tiny, tiny)
    other = TINY.with_training(learning_rate=2e-3)
    other.train(tmp_path / "other", device="cpu", progress=False)
    with pytest.raises(ValueError, match="(?s)system.fitted.start: expected .*training.learning_rate: expected 0.002"):
        fit(tmp_path / "other", tmp_path / "out")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "log.jsonl").touch()
    with pytest.raises(FileExistsError, match="expected no files of another run in .*foreign, got .*log.jsonl"):
        fit(tiny, tmp_path / "foreign")


@pytest.mark.parametrize("name", ["priors:Drift", "priors:still"])
def test_a_prior_of_one_s_own(tiny: Path, tmp_path: Path, priors: None, name: str) -> None:
    fitted = fit(tiny, tmp_path / "out", propagation=name)
    sys.modules.pop("priors")
    with pytest.raises(ValueError, match="expected `programs`, the model and guide that 'tiny' was trained with"):
        pyro_sqair.load(tmp_path / "out")
    assert "priors" not in sys.modules  # no code is imported because a file names it
    experiment = Experiment.read(tmp_path / "out" / "experiment.json")
    for loaded in (
        pyro_sqair.load(tmp_path / "out", programs=experiment.system.programs(experiment.scene)),
        fit(tiny, tmp_path / "out", propagation=name),
    ):
        assert loaded.experiment == fitted.experiment and equal(loaded.model, fitted.model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"propagation": "grue"}, r"a propagation prior MODULE:CALLABLE or among \['gru', .*\], got 'grue'"),
        ({"propagation": "nonesuch:f"}, r"prior MODULE:CALLABLE .* got 'nonesuch:f' \(No module named 'nonesuch'\)"),
        ({"propagation": "priors:none"}, "prior MODULE:CALLABLE .* got 'priors:none' .*no attribute 'none'"),
        ({"propagation": "a b:c"}, "prior MODULE:CALLABLE .* got 'a b:c'"),
        ({"propagation": "math:pi"}, "'math:pi' to be callable, got float"),
        ({"propagation": "priors:Broad"}, "where.* of shape"),
        ({"propagation": "priors:Windy"}, "in the model but not in the guide: 'frame_1/prop/wind'"),
        ({"propagation": "priors:still", "relations": "in"}, "no relations with 'priors:still', got InteractionConfig"),
        ({"relations": "rnn"}, r"relations among \['in', 'none', 'rmc'\], got 'rnn'"),
        ({"part": "all"}, "part 'both', 'discovery' or 'propagation', got 'all'"),
        ({"part": "discovery", "relations": "none"}, "the propagation prior of .*, if only discovery is fitted"),
        ({"scenes": 19}, "at least 20 scenes, got 19"),
        ({"length": 1}, "scenes of at least two frames, to fit propagation to, got 1"),
        ({"length": 0}, "positive integer length"),
        ({"steps": 0}, "steps to be a positive integer, got 0"),
        ({"seed": 2**63}, "seed to be below"),
    ],
)
def test_invalid_settings(tiny: Path, tmp_path: Path, priors: None, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s)expected .*{message}"):
        fit(tiny, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("system", [AIRSystem(4), VRNNSystem(VRNNConfig(4, 4, 1))])
def test_runs_without_propagation(system: Any, tmp_path: Path) -> None:
    replace(TINY, system=system).with_training(steps=1).train(tmp_path / "run", device="cpu", progress=False)
    with pytest.raises(ValueError, match=f"expected a run of SQAIR, .* got one of {type(system).__name__} in .*run"):
        fit(tmp_path / "run", tmp_path / "out")


def test_a_guide_that_finds_nothing(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = Bank(torch.zeros(20, 3, 2, 2, 7), TINY.scene)
    monkeypatch.setattr(fitting, "draw_bank", lambda *_: empty)
    with pytest.raises(ValueError, match="expected a guide that propagates objects, got none in 20 scenes from .*tiny"):
        fit(tiny, tmp_path)


def test_other_data_is_refused(tmp_path: Path) -> None:
    for seed, name in enumerate(("train.h5", "test.h5", "other.h5")):
        write_sequences(tmp_path / name, BouncingBalls(four_balls()), 3, 2, seed, generator="balls", progress=False)
    made = file_experiment(FileVideos(tmp_path / "train.h5"), what_dim=2, hidden_size=4)
    made.with_training(steps=1, batch_size=2, num_particles=2).train(tmp_path / "run", device="cpu", progress=False)
    shutil.move(tmp_path / "other.h5", tmp_path / "train.h5")
    with pytest.raises(ValueError, match="(?s)expected the training sequences of this experiment.*sha|hash|content"):
        fit(tmp_path / "run", tmp_path / "out")
