# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The coefficients of OVIS follow the paper; its gradient is enumerated in test_multi_sample.py."""

import math

import pytest
import torch

from pyro_sqair.infer import OVIS


def log_weights(num_particles: int) -> torch.Tensor:
    return 3 * torch.randn(num_particles, 7, dtype=torch.float64)


def total(estimator: OVIS, log_w: torch.Tensor) -> torch.Tensor:
    """The total coefficient on h_k: the signal plus the term from differentiating the bound."""
    return estimator.signal(log_w) - (log_w * (1 - estimator.alpha)).softmax(0)


@pytest.mark.parametrize("gamma", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("num_particles", [2, 3, 5])
def test_control_variate_and_end_points_of_the_paper(num_particles, gamma):
    """d_k - c_k with c_k = log Z_{-k} - gamma v_k + (1 - gamma) log(1 - 1/K), by loops (Eq. 17)."""
    log_w = log_weights(num_particles)
    w = log_w.exp()
    got = total(OVIS(num_particles, gamma=gamma), log_w)
    for k in range(num_particles):
        others = torch.stack([w[j] for j in range(num_particles) if j != k])
        v = w[k] / w.sum(0)
        d = w.mean(0).log() - v
        c = others.mean(0).log() - gamma * v + (1 - gamma) * math.log(1 - 1 / num_particles)
        torch.testing.assert_close(got[k], d - c, rtol=0, atol=1e-12)
    v = w / w.sum(0)
    end_points = {0.0: -(1 - v).log() - v, 1.0: ((1 - 1 / num_particles) / (1 - v)).log()}
    if gamma in end_points:
        torch.testing.assert_close(got, end_points[gamma])


def test_even_weights_have_no_signal_at_gamma_one():
    for alpha in (0.0, 0.5, 0.99):
        even = torch.zeros(4, 2, dtype=torch.float64)
        torch.testing.assert_close(total(OVIS(4, gamma=1.0, alpha=alpha), even), even, rtol=0, atol=1e-12)


def test_one_particle_with_all_the_weight():
    """1 - v_0 = 3 e^-100 rounds to 0, but its logarithm is finite."""
    log_w = torch.tensor([[100.0], [0.0], [0.0], [0.0]])
    wanted = torch.tensor([[100 - math.log(3)], [0.0], [0.0], [0.0]])
    torch.testing.assert_close(OVIS(4).signal(log_w), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("gamma", [-0.1, 1.1, float("nan")])
def test_gamma_out_of_range(gamma):
    with pytest.raises(ValueError, match=f"0 <= gamma <= 1, got {gamma}"):
        OVIS(3, gamma=gamma)
