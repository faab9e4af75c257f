# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The particle filter agrees with a Kalman filter and with a SQAIR whose evidence is known."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from exact_sqair import World, make_case
from torch import Tensor

from pyro_sqair.infer import SMC, smc_evidence
from pyro_sqair.infer.log_weights import log_weights
from pyro_sqair.infer.resampling import SCHEMES, resample

# ---------------------------------------------------------------- a linear-Gaussian model

A = np.array([[0.9, 0.3], [-0.2, 0.8]])  # z_t = A z_{t-1} + offset + N(0, Q)
OFFSET = np.array([0.1, -0.2])
Q = np.array([[0.5, 0.1], [0.1, 0.4]])
C = np.array([[1.0, 0.5], [-0.3, 1.0]])  # x_t = C z_t + N(0, R)
R = np.array([[1.2, 0.2], [0.2, 1.0]])
LENGTH = 10
VIDEO = np.random.default_rng(1).normal(size=(LENGTH, 2)) * 1.5


def tensor(value: np.ndarray) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64)


class LinearModel:
    """The state is a tensor; the first is z_1 = A 0 + offset + noise."""

    def init(self, batch: int) -> Tensor:
        return torch.zeros(batch, 2, dtype=torch.float64)

    def step(self, t: int, state: Tensor, frame: Tensor) -> Tensor:
        z = pyro.sample("z", dist.MultivariateNormal(state @ tensor(A).T + tensor(OFFSET), tensor(Q)))
        pyro.sample("x", dist.MultivariateNormal(z @ tensor(C).T, tensor(R)), obs=frame)
        return z


class Bootstrap(LinearModel):
    def step(self, t: int, state: Tensor, frame: Tensor) -> Tensor:
        return pyro.sample("z", dist.MultivariateNormal(state @ tensor(A).T + tensor(OFFSET), tensor(Q)))


class LocallyOptimal(LinearModel):
    """Proposes from p(z_t | z_{t-1}, x_t); its state has another type than that of the model."""

    def init(self, batch: int) -> dict[str, Tensor]:
        return {"z": super().init(batch)}

    def step(self, t: int, state: dict[str, Tensor], frame: Tensor) -> dict[str, Tensor]:
        prior = state["z"] @ tensor(A).T + tensor(OFFSET)
        gain = tensor(Q @ C.T @ np.linalg.inv(C @ Q @ C.T + R))
        loc = prior + (frame - prior @ tensor(C).T) @ gain.T
        covariance = (torch.eye(2, dtype=torch.float64) - gain @ tensor(C)) @ tensor(Q)
        return {"z": pyro.sample("z", dist.MultivariateNormal(loc, (covariance + covariance.T) / 2))}


def kalman() -> tuple[list[float], list[np.ndarray]]:
    """log p(x_t | x_{1:t-1}) and E[z_t | x_{1:t}] of every frame."""
    mean, covariance = np.zeros(2), np.zeros((2, 2))
    increments, means = [], []
    for x in VIDEO:
        mean, covariance = A @ mean + OFFSET, A @ covariance @ A.T + Q
        innovation = C @ covariance @ C.T + R
        error = x - C @ mean
        solved = np.linalg.solve(innovation, error)
        increments.append(-0.5 * (error @ solved + np.linalg.slogdet(2 * np.pi * innovation)[1]))
        mean = mean + covariance @ C.T @ solved
        covariance = covariance - covariance @ C.T @ np.linalg.solve(innovation, C @ covariance)
        means.append(mean)
    return increments, means


def copies_of_video(copies: int) -> Tensor:
    return tensor(VIDEO).unsqueeze(1).expand(-1, copies, -1)


def test_the_kalman_filter_agrees_with_the_joint_gaussian():
    factor = np.zeros((2 * LENGTH, 2 * LENGTH))  # of all z with respect to the noise
    shift = np.zeros(2 * LENGTH)
    root = np.linalg.cholesky(Q)
    for t in range(LENGTH):
        here, before = slice(2 * t, 2 * t + 2), slice(2 * t - 2, 2 * t)
        if t:
            factor[here], shift[here] = A @ factor[before], A @ shift[before]
        factor[here, here] += root
        shift[here] += OFFSET
    big = np.kron(np.eye(LENGTH), C)
    covariance = big @ factor @ factor.T @ big.T + np.kron(np.eye(LENGTH), R)
    error = VIDEO.reshape(-1) - big @ shift
    exact = -0.5 * (error @ np.linalg.solve(covariance, error) + np.linalg.slogdet(2 * np.pi * covariance)[1])
    assert sum(kalman()[0]) == pytest.approx(exact, abs=1e-10)


@pytest.mark.parametrize("threshold", [0, 0.5, 1])
@pytest.mark.parametrize("name", sorted(SCHEMES))
@pytest.mark.parametrize("guide", [Bootstrap(), LocallyOptimal()], ids=["bootstrap", "optimal"])
@torch.no_grad()
def test_average_evidence_and_filtering_means_are_exact(guide, name, threshold):
    """E[Z_t] = p(x_{1:t}) and E[Z_t sum_k V_k z_k] = p(x_{1:t}) E[z_t | x_{1:t}] at three frames."""
    copies = 1500
    increments, means = kalman()
    smc = SMC(LinearModel(), guide, 24, name, threshold)
    particles = smc.init(copies)
    resampled = 0
    for t, frame in enumerate(copies_of_video(copies)):
        particles, step = smc.step(t, particles, frame)
        resampled += 0 if step.resampling is None else int(step.resampling.done.sum())
        if t not in (1, 5, LENGTH - 1):
            continue
        ratio = (particles.log_evidence - sum(increments[: t + 1])).exp()
        error = ratio.std() / math.sqrt(copies)
        assert error < 0.1
        assert abs(ratio.mean() - 1) < 4 * error
        estimate = ratio.unsqueeze(-1) * (particles.log_weight.exp().unsqueeze(-1) * particles.model_state).sum(0)
        error = estimate.std(0) / math.sqrt(copies)
        assert ((estimate.mean(0) - tensor(means[t])).abs() < 4 * error).all()
    share = resampled / (copies * (LENGTH - 1))
    assert share == threshold if threshold in (0, 1) else 0.02 < share < 0.98


@pytest.mark.parametrize("error", ["nothing reindexed", "weights reindexed"])
def test_the_comparison_detects_errors(error, monkeypatch):
    """States that are not reindexed, or weights that are reindexed instead of reset, change the evidence."""
    if error == "nothing reindexed":
        monkeypatch.setattr("pyro_sqair.infer.smc.take", lambda state, ancestors: state)
    else:
        monkeypatch.setattr(
            "pyro_sqair.infer.smc.resample",
            lambda log_weight, *rest: (out := resample(log_weight, *rest))._replace(
                log_weight=log_weight.gather(0, out.ancestors)
            ),
        )
    evidence = smc_evidence(LinearModel(), Bootstrap(), copies_of_video(3000), num_particles=24, threshold=1)
    ratio = (evidence - sum(kalman()[0])).exp()
    assert abs(ratio.mean() - 1) > 8 * ratio.std() / math.sqrt(3000)


@torch.no_grad()
def test_effective_sample_size_decides_which_data_are_resampled():
    smc, low = SMC(LinearModel(), LocallyOptimal(), 6, threshold=0.7), None
    out = smc.run(copies_of_video(50))
    assert out.increments.shape == out.effective_sample_size.shape == (LENGTH, 50)
    torch.testing.assert_close(out.increments.sum(0), out.log_evidence)
    torch.testing.assert_close(out.particles.log_weight.exp().sum(0), torch.ones(50, dtype=torch.float64))
    assert ((out.effective_sample_size >= 1 - 1e-9) & (out.effective_sample_size <= 6 + 1e-9)).all()
    assert smc.run(copies_of_video(1)).log_evidence.shape == (1,)
    particles = smc.init(50)
    for t, frame in enumerate(copies_of_video(50)):
        particles, step = smc.step(t, particles, frame)
        if t == 0:
            assert step.resampling is None
        else:
            kept = (step.resampling.ancestors == torch.arange(6).unsqueeze(-1)).all(0)
            assert kept[~low].all() and not kept[low].any()
        low = 1 / particles.log_weight.exp().square().sum(0) < 0.7 * 6


# ---------------------------------------------------------------- a tiny SQAIR


WORLDS = {
    "N2-T1": {"num_slots": 2, "length": 1},
    "N1-T2": {"num_slots": 1, "length": 2, "count": "fixed", "crowd": 0.0},
    "N2-T2": {"num_slots": 2, "length": 2},
    "N2-T3": {"num_slots": 2, "length": 3, "pixel_std": 0.7},
}


@pytest.mark.parametrize(
    ("world", "name", "threshold"),
    [
        ("N2-T1", "systematic", 1),
        ("N1-T2", "systematic", 1),
        ("N2-T2", "multinomial", 1),
        ("N2-T2", "systematic", 0.5),
        ("N2-T2", "systematic", 0),
        ("N2-T3", "systematic", 1),
        ("N2-T3", "stratified", 0.6),
    ],
)
def test_average_evidence_of_a_tiny_sqair(world, name, threshold):
    torch.set_default_dtype(torch.float64)
    case = make_case(World(**WORLDS[world]))
    copies = 1500
    frames = case.frames.repeat_interleave(copies, 1)
    evidence = smc_evidence(
        case.model, case.guide, frames, num_particles=16, resampling=name, threshold=threshold
    ).reshape(-1, copies)
    ratio = (evidence - case.log_evidence.unsqueeze(-1)).exp()
    error = ratio.std(-1) / math.sqrt(copies)
    assert (error < 0.03).all(), error
    assert ((ratio.mean(-1) - 1).abs() < 4 * error).all(), (ratio.mean(-1) - 1) / error


def test_without_resampling_it_is_iwae():
    torch.set_default_dtype(torch.float64)
    case = make_case(World(num_slots=2, length=3))
    frames = case.frames.repeat_interleave(5, 1)
    pyro.set_rng_seed(3)
    filtered = smc_evidence(case.model, case.guide, frames, num_particles=7, threshold=0)
    pyro.set_rng_seed(3)
    weights = log_weights(case.model, case.guide, (frames,), num_particles=7, max_plate_nesting=1).log_weight.detach()
    torch.testing.assert_close(filtered, weights.logsumexp(0) - math.log(7), rtol=0, atol=1e-11)
    pyro.set_rng_seed(3)
    resampled = smc_evidence(case.model, case.guide, frames, num_particles=7, threshold=1)
    assert (resampled - filtered).abs().max() > 0.01


def test_evaluation_has_no_gradients():
    class Learned(Bootstrap):
        def step(self, t, state, frame):
            loc = torch.zeros(2, dtype=torch.float64, requires_grad=True)
            return pyro.sample("z", dist.MultivariateNormal(loc.expand(*state.shape), tensor(Q)))

    assert not smc_evidence(LinearModel(), Learned(), copies_of_video(3), num_particles=4).requires_grad
