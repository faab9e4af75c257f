# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

import pytest
import torch
from torch import nn

from pyro_sqair.training import WeightAverage


def test_average_against_the_explicit_sum() -> None:
    """a_n = Π_i d_i · w_init + Σ_i (1 − d_i) Π_{j>i} d_j · w_i, in float64."""
    weight = nn.Parameter(torch.randn(5, dtype=torch.float64))
    history = [weight.detach().clone()]
    average = WeightAverage({"w": weight}, decay=0.6)
    for n in range(12):
        with torch.no_grad():
            weight.add_(torch.randn(5, dtype=torch.float64))
        history.append(weight.detach().clone())
        average.update(n)

    decays = [min(0.6, (1 + n) / (10 + n)) for n in range(12)]
    expected = torch.zeros(5, dtype=torch.float64)
    for i, value in enumerate(history):
        share = 1.0 if i == 0 else 1 - decays[i - 1]
        for decay in decays[i:]:
            share *= decay
        expected += share * value
    torch.testing.assert_close(average.values["w"], expected, rtol=1e-13, atol=1e-13)
    assert decays[0] == 0.1
    assert decays[-1] == 12 / 21


def test_weights_are_swapped_back_after_an_error() -> None:
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    average = WeightAverage({"w": weight}, decay=0.5)
    with torch.no_grad():
        weight.fill_(7.0)
    with pytest.raises(RuntimeError), average.swapped_in():
        assert weight.tolist() == [1.0, 2.0]
        raise RuntimeError
    assert weight.tolist() == [7.0, 7.0]
    assert average.values["w"].tolist() == [1.0, 2.0]
