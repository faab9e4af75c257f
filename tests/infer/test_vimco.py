# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""VIMCO's control variates; its gradient is enumerated in test_multi_sample.py."""

import itertools
import math

import pytest
import torch

from pyro_sqair.infer import VIMCO
from pyro_sqair.infer.vimco import control_variate, log_mean_of_others


def test_control_variates_by_loop():
    log_w = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 5
    for k, b in itertools.product(range(4), range(3)):
        others = torch.tensor([log_w[j, b] for j in range(4) if j != k], dtype=torch.float64)
        for kind, predicted in (("geometric", others.mean()), ("arithmetic", others.exp().mean().log())):
            swapped = log_w[:, b].clone()
            swapped[k] = predicted
            got = control_variate(log_w, kind)[k, b]
            torch.testing.assert_close(got, swapped.exp().mean().log(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["geometric", "arithmetic"])
def test_control_variates_of_extreme_weights(kind):
    log_w = torch.tensor([[1e4], [1e4 - 1], [-1e4], [-math.inf]])
    c = control_variate(log_w, kind)
    assert not c.isnan().any()
    # For particles 3 and 4, the bound is that of the first two.
    torch.testing.assert_close(c[2:], torch.full((2, 1), 1e4 + math.log(1 + math.exp(-1))) - c.new_tensor(
        [[math.log(4 if kind == "geometric" else 3)]] * 2
    ))  # fmt: skip


@pytest.mark.parametrize("function", [control_variate, log_mean_of_others])
def test_baseline_is_zero_if_all_others_have_weight_zero(function):
    log_w = torch.tensor([[3.0, -math.inf], [-math.inf, -math.inf], [-math.inf, -math.inf]])
    assert function(log_w)[0].tolist() == [0.0, 0.0]
    assert function(log_w)[1, 0] == pytest.approx(3 - math.log(3 if function is control_variate else 2))


def test_unknown_control_variate():
    with pytest.raises(ValueError, match="'geometric', 'arithmetic'.* got 'harmonic'"):
        VIMCO(2, control_variate="harmonic")
