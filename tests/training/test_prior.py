# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Priors fitted to a bank of draws: the log-probabilities of replay, maximum likelihood in closed form, and errors."""

import copy
import math
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_sqair.data import MotionConfig, MovingDigits, embedded_digits
from pyro_sqair.experiments import SQAIRSystem
from pyro_sqair.models import ScenePrior, given_discovery, given_propagation
from pyro_sqair.scene import SceneConfig
from pyro_sqair.training import Bank, TrainingConfig, bank, draw_bank, fit_prior, fitting, score_prior
from pyro_sqair.training.bank import site_values

SCENE = SceneConfig(num_slots=3, what_dim=2, image_size=(50, 50), glimpse_size=(10, 10))
LENGTH = 5


def random_draws(sequences: int, seed: int = 0) -> Tensor:
    """Scenes in which objects enter, leave and change slots, as a guide may draw them."""
    scenes = ScenePrior(enters, stays, SCENE)
    pyro.set_rng_seed(seed)
    trace = poutine.trace(scenes).get_trace(torch.empty(0, sequences, 1, 50, 50), LENGTH)
    draws = torch.zeros(sequences, LENGTH, 2, 3, 7)
    for name, value in site_values(draws.transpose(0, 1)).items():
        if name in trace.nodes:
            value.copy_(trace.nodes[name]["value"])
    return draws


def enters(propagated, slots, first):
    for _ in slots:
        pyro.sample("pres", dist.Bernoulli(propagated.pres.new_tensor(0.6)))
        pyro.sample("where", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        pyro.sample("what", dist.Normal(torch.zeros(2), 1.0).to_event(1))


def stays(previous, memory, slots):
    for i in slots:
        pyro.sample("pres", dist.Bernoulli(previous.pres.new_tensor(0.7)))
        pyro.sample("where", dist.Normal(previous.where[..., i, :] + 0.5, 0.2).to_event(1))
        pyro.sample("what", dist.Normal(previous.what[..., i, :], 0.3).to_event(1))


class Drift(nn.Module):
    """Objects drift: the maximum-likelihood estimates of its parameters are means and standard deviations."""

    def __init__(self) -> None:
        super().__init__()
        self.logit, self.drift = nn.Parameter(torch.tensor(0.0)), nn.Parameter(torch.zeros(4))
        self.log_scale, self.log_what_scale = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.tensor(0.0))

    def forward(self, previous, memory, slots):
        for i in slots:
            pyro.sample("pres", dist.Bernoulli(logits=self.logit))
            where = previous.where[..., i, :] + self.drift
            pyro.sample("where", dist.Normal(where, self.log_scale.exp()).to_event(1))
            pyro.sample("what", dist.Normal(previous.what[..., i, :], self.log_what_scale.exp()).to_event(1))


def transitions(draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every propagation of the scenes: presence [n], and of those that stay the changes of where and what."""
    pres, before, after = [], [], []
    for scene in draws:
        objects: list[Tensor] = []
        for t in range(LENGTH):
            kept = []
            for i, old in enumerate(objects):
                new = scene[t, 1, i]
                pres.append(new[0])
                if new[0] > 0:
                    before.append(old)
                    after.append(new)
                    kept.append(new)
            found = scene[t, 0][scene[t, 0, :, 0] > 0]
            objects = kept + list(found)
    change = (torch.stack(after) - torch.stack(before))[:, 1:]
    return torch.stack(pres), change[:, :4], change[:, 4:]


def test_the_score_is_the_density_of_the_replayed_draws() -> None:
    model, guide = SQAIRSystem(hidden_size=8).programs(SCENE)
    source = MovingDigits(embedded_digits("train"), MotionConfig(max_digits=3))
    made = draw_bank(guide, source, sequences=6, length=LENGTH, seed=3, progress=False)
    prior = ScenePrior(model.discovery_prior, model.propagation_prior, SCENE)

    values = {name: value for name, value in site_values(made.draws.transpose(0, 1)).items()}
    frames = torch.zeros(LENGTH, 6, 1, 50, 50)
    trace = poutine.trace(poutine.condition(model, data=values)).get_trace(frames)
    terms = {
        name: site["fn"].log_prob(site["value"]).sum().item()
        for name, site in trace.nodes.items()
        if name.startswith("frame") and site["type"] == "sample" and "image" not in name
    }
    discovered = sum(term for name, term in terms.items() if "disc" in name) / (6 * LENGTH)
    propagated = sum(term for name, term in terms.items() if "prop" in name) / made.draws[:, :, 1, :, 0].sum().item()
    score = score_prior(prior, made)
    assert score.discovery == pytest.approx(discovered, rel=1e-5)
    assert score.propagation == pytest.approx(propagated, rel=1e-5)
    alone = score_prior(ScenePrior(given_discovery, model.propagation_prior, SCENE), made)
    assert math.isnan(alone.discovery) and alone.propagation == pytest.approx(propagated, rel=1e-5)
    alone = score_prior(ScenePrior(model.discovery_prior, given_propagation, SCENE), made)
    assert math.isnan(alone.propagation) and alone.discovery == pytest.approx(discovered, rel=1e-5)


def test_the_bank_has_the_draws_of_the_guide(monkeypatch: pytest.MonkeyPatch) -> None:
    _, guide = SQAIRSystem(hidden_size=8).programs(SCENE)
    source = MovingDigits(embedded_digits("train"), MotionConfig(max_digits=3))
    before = torch.get_rng_state()
    made = draw_bank(guide, source, sequences=7, length=LENGTH, seed=3, progress=False)
    assert torch.equal(torch.get_rng_state(), before)
    # Replayed on the guide, the draws are a fixed point: no site is drawn again.
    generator = torch.Generator().manual_seed(bank.derive_seed("videos", 3))
    frames = source.sample(7, LENGTH, generator).frames
    trace = poutine.trace(poutine.condition(guide, data=site_values(made.draws.transpose(0, 1)))).get_trace(frames)
    assert not [name for name, site in trace.nodes.items() if name[:5] == "frame" and not site["is_observed"]]
    assert (made.draws[..., 0].sum((1, 2, 3)) > 0).any()

    monkeypatch.setattr(bank, "_IN_MEMORY", 0)
    on_disk = draw_bank(guide, source, sequences=7, length=LENGTH, seed=3, progress=False)
    assert torch.equal(on_disk.draws, made.draws)


def test_a_fitted_prior_has_the_maximum_likelihood(tmp_path: Path) -> None:
    draws = random_draws(300)
    prior = ScenePrior(given_discovery, Drift(), SCENE)
    config = TrainingConfig(
        steps=400, batch_size=256, num_particles=1, learning_rate=0.05, final_learning_rate=1e-4, clip_norm=None,
        warmup_steps=0, curriculum=((LENGTH, 1.0),), ema_decay=0.9, validate_every=200,
    )  # fmt: skip
    score = fit_prior(prior, Bank(draws, SCENE), tmp_path, config, held_out=Bank(draws, SCENE), progress=False)
    pres, where, what = transitions(draws)
    fitted = prior.propagation_prior
    probability, scale, what_scale = pres.mean(), where.std(0, correction=0), what.square().mean().sqrt()
    torch.testing.assert_close(fitted.logit.sigmoid(), probability, atol=0.01, rtol=0)
    torch.testing.assert_close(fitted.drift, where.mean(0), atol=0.01, rtol=0)
    torch.testing.assert_close(fitted.log_scale.exp(), scale, atol=0.01, rtol=0)
    torch.testing.assert_close(fitted.log_what_scale.exp(), what_scale, atol=0.01, rtol=0)
    best = dist.Bernoulli(probability).log_prob(pres).sum()
    best += dist.Normal(where.mean(0), scale).log_prob(where).sum() + dist.Normal(0.0, what_scale).log_prob(what).sum()
    assert score.propagation <= (best / pres.sum()).item() + 1e-5
    assert score.propagation == pytest.approx((best / pres.sum()).item(), abs=0.005)


def test_a_fit_resumes_and_leaves_the_given_part_alone(tmp_path: Path) -> None:
    model, _ = SQAIRSystem(hidden_size=8).programs(SCENE)
    scenes = Bank(random_draws(40), SCENE)
    prior = copy.deepcopy(ScenePrior(model.discovery_prior, model.propagation_prior, SCENE))
    fit_prior(prior, scenes, tmp_path, fitting(4, LENGTH), progress=False)
    again = copy.deepcopy(ScenePrior(model.discovery_prior, model.propagation_prior, SCENE))
    score = fit_prior(again, scenes, tmp_path, fitting(4, LENGTH), progress=False)  # is finished: only loaded
    assert score == score_prior(prior, scenes.split()[1])
    for ours, theirs in zip(again.parameters(), prior.parameters(), strict=True):
        assert torch.equal(ours, theirs)


class Extra(Drift):
    def forward(self, previous, memory, slots):
        pyro.sample("wind", dist.Normal(previous.pres.new_zeros(()), 1.0))
        return super().forward(previous, memory, slots)


class Broad(Drift):
    def forward(self, previous, memory, slots):
        for _ in slots:
            pyro.sample("pres", dist.Bernoulli(logits=self.logit))
            pyro.sample("where", dist.Normal(self.drift[:1], 1.0).to_event(1))
            pyro.sample("what", dist.Normal(torch.zeros(2), 1.0).to_event(1))


@pytest.mark.parametrize(
    ("propagation", "scene", "message"),
    [
        (Extra(), SCENE, "draws the sites of the bank, got 'frame_1/prop/wind'"),
        (Broad(), SCENE, r"site 'frame_1/prop_0/where' of shape \[4\], as in the bank, got \[1\]"),
        (
            Drift(),
            SceneConfig(2, 2, 1, (50, 50), (10, 10)),
            "a bank with 2 slots and `what` of 2 dimensions, as the prior has, got one with 3 slots and `what` of 2",
        ),
    ],
)
def test_a_prior_that_does_not_fit_the_bank(
    propagation: nn.Module, scene: SceneConfig, message: str, tmp_path: Path
) -> None:
    prior, scenes = ScenePrior(given_discovery, propagation, scene), Bank(random_draws(20), SCENE)
    with pytest.raises(ValueError, match="expected .*" + message):
        score_prior(prior, scenes)
    with pytest.raises(ValueError, match="expected .*" + message):
        fit_prior(prior, scenes, tmp_path, fitting(2, LENGTH), progress=False)
    assert not list(tmp_path.iterdir())


def test_priors_that_cannot_be_fitted(tmp_path: Path) -> None:
    model, guide = SQAIRSystem(hidden_size=8).programs(SCENE)
    shared = ScenePrior(model.discovery_prior, model.propagation_prior, SCENE)

    def loose(previous, memory, slots):
        scale = pyro.param("loose", torch.tensor(1.0))
        for _ in slots:
            pyro.sample("pres", dist.Bernoulli(scale.sigmoid()))
            pyro.sample("where", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("what", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    draws = random_draws(20)
    for prior, scenes, message in (
        (shared, Bank(draws, SCENE, guide), "a prior without parameters of the guide, .* got [0-9]+ of them"),
        (ScenePrior(given_discovery, stays, SCENE), Bank(draws, SCENE), "a prior with parameters to fit, got none"),
        (ScenePrior(model.discovery_prior, loose, SCENE), Bank(draws, SCENE), "got pyro.param 'loose'"),
        (ScenePrior(given_discovery, Drift(), SCENE), Bank(draws[:, :1], SCENE), "got 1 frames with 0 propagated"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_prior(prior, scenes, tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_parameters_of_two_priors_stay_apart() -> None:
    """A PyroParam would take the value of that of the same name in another prior."""

    class Scaled(pyro.nn.PyroModule):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.scale = pyro.nn.PyroParam(torch.tensor(scale), dist.constraints.positive)

        def forward(self, previous, memory, slots):
            for i in slots:
                pyro.sample("pres", dist.Bernoulli(previous.pres.new_tensor(0.7)))
                pyro.sample("where", dist.Normal(previous.where[..., i, :], self.scale).to_event(1))
                pyro.sample("what", dist.Normal(previous.what[..., i, :], 1.0).to_event(1))

    scenes = Bank(random_draws(20), SCENE)
    first, second = (ScenePrior(given_discovery, Scaled(scale), SCENE) for scale in (0.5, 3.0))
    alone = score_prior(second, scenes).propagation
    other = score_prior(first, scenes).propagation
    assert score_prior(second, scenes).propagation == alone != other


def test_invalid_banks() -> None:
    with pytest.raises(ValueError, match=r"expected draws of shape \[n, T, 2, 3, 7\], .* got \[0, 5, 2, 3, 7\]"):
        Bank(torch.zeros(0, 5, 2, 3, 7), SCENE)
    with pytest.raises(ValueError, match="expected a bank of at least two sequences"):
        Bank(torch.zeros(1, 5, 2, 3, 7), SCENE).split()
    with pytest.raises(ValueError, match="a length of at most 5, .* got 6"):
        Bank(torch.zeros(2, 5, 2, 3, 7), SCENE).sample(2, 6, torch.Generator())
