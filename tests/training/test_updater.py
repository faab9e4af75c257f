# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyro_sqair.training import TrainingConfig
from pyro_sqair.training.updater import Updater

OPTIMIZERS = pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])


def state(updater: Updater) -> list[Tensor]:
    """Weights and the state of the optimiser."""
    moments = [tensor for entry in updater.optimizer.state.values() for _, tensor in sorted(entry.items())]
    return [tensor.detach().clone() for tensor in [*updater.parameters, *moments]]


def updater_of(weights: list[nn.Parameter], **changes: Any) -> Updater:
    return Updater({str(i): weight for i, weight in enumerate(weights)}, TrainingConfig(**changes))


@OPTIMIZERS
@pytest.mark.parametrize("poison", ["gradient", "loss"])
def test_non_finite_update_changes_nothing(optimizer: str, poison: str) -> None:
    weights = [nn.Parameter(torch.tensor([1.0, -2.0])), nn.Parameter(torch.tensor(0.5))]
    updater = updater_of(weights, optimizer=optimizer)
    twin = updater_of(copy.deepcopy(weights), optimizer=optimizer)

    def loss(of: Updater) -> Tensor:
        return of.parameters[0].pow(2).sum() + of.parameters[1].sin()

    for each in (updater, twin):
        assert bool(each.update(loss(each), 0.1)[1])
    before = state(updater)
    # sqrt(0) is finite but its gradient is not; adding NaN makes the loss NaN but not the gradient.
    bad = (updater.parameters[1] * 0).sqrt() if poison == "gradient" else torch.tensor(float("nan"))
    _, taken = updater.update(loss(updater) + bad, 0.1)
    assert not bool(taken)
    assert all(torch.equal(a, b) for a, b in zip(before, state(updater), strict=True))

    # The next update is that of the twin, which skipped nothing.
    for each in (updater, twin):
        assert bool(each.update(loss(each), 0.1)[1])
    assert all(torch.equal(a, b) for a, b in zip(state(updater), state(twin), strict=True))


def test_adam_clips_the_global_norm() -> None:
    """Adam's first step by hand, with a gradient of (30, 40) clipped to norm 5."""
    weights = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    updater = updater_of(weights, clip_norm=5.0)
    norm, _ = updater.update(30 * weights[0].sum() + 40 * weights[1].sum(), 0.01)
    assert norm.item() == 50.0
    moments = [updater.optimizer.state[weight]["exp_avg"].item() for weight in weights]
    assert moments == pytest.approx([0.3, 0.4], rel=1e-5)
    assert [weight.item() for weight in weights] == pytest.approx([-0.01, -0.01], rel=1e-5)


@OPTIMIZERS
def test_no_clipping(optimizer: str) -> None:
    weight = nn.Parameter(torch.zeros(1))
    updater = updater_of([weight], clip_norm=None, optimizer=optimizer)
    norm, taken = updater.update(1e6 * weight.sum(), 0.01)
    assert (norm.item(), bool(taken)) == (1e6, True)
    assert weight.grad is not None
    assert weight.grad.item() == 1e6


def test_rmsprop_with_momentum() -> None:
    """Three steps by the recursion: m ← .9m + .1g², b ← .9b + g/(√m + ε), w ← w − ηb."""
    weight = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    updater = updater_of([weight], optimizer="rmsprop", momentum=0.9, clip_norm=None)
    w, square, buffer = 2.0, 0.0, 0.0
    for rate in (0.1, 0.05, 0.2):
        updater.update(weight.pow(2).sum(), rate)
        gradient = 2 * w
        square = 0.9 * square + 0.1 * gradient**2
        buffer = 0.9 * buffer + gradient / (square**0.5 + 1e-5)
        w -= rate * buffer
        assert weight.item() == pytest.approx(w, rel=1e-12)


@OPTIMIZERS
def test_weight_without_gradient_is_unchanged(optimizer: str) -> None:
    used, unused = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    updater = updater_of([used, unused], optimizer=optimizer)
    updater.update(used.sum(), 0.1)
    assert used.item() < 1.0
    assert unused.item() == 1.0
