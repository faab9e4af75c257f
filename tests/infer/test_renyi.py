# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Rényi warm-up: its schedule, what counts as a step, and exact resumption."""

import json

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO

from pyro_sqair.infer import OVIS, VIMCO, DReG, RenyiWarmup

X = torch.tensor([0.5, -1.0, 2.0])


def model(x):
    with pyro.plate("data", len(x)):
        b = pyro.sample("b", dist.Bernoulli(0.4))
        pyro.sample("x", dist.Normal(b, 1.0), obs=x)


def guide(x):
    logit = pyro.param("logit", torch.tensor(0.3))
    with pyro.plate("data", len(x)):
        pyro.sample("b", dist.Bernoulli(logits=logit * x))


def test_schedule():
    warmup = RenyiWarmup(VIMCO(3), 10, end=0.19)
    orders = []
    for _ in range(12):
        orders.append(warmup.alpha)
        warmup.loss_and_grads(model, guide, X)
        assert warmup.estimator.alpha == orders[-1]
    assert orders[0] == pytest.approx(0.99)
    assert orders[5] == pytest.approx(1 - (0.01 * 0.81) ** 0.5)
    assert orders[10:] == [0.19, 0.19]
    assert orders == sorted(orders, reverse=True)


def test_steps_are_calls_that_compute_gradients():
    warmup = RenyiWarmup(VIMCO(3), 10)
    warmup.loss(model, guide, X)
    with torch.no_grad():
        warmup.differentiable_loss(model, guide, X)
        warmup(model, guide)(X)
    assert warmup.step == 0
    warmup.differentiable_loss(model, guide, X)
    warmup.loss_and_grads(model, guide, X)
    warmup.surrogate(model, guide, X)
    warmup(model, guide)(X)
    assert warmup.step == 4


def test_failed_step_does_not_count():
    warmup = RenyiWarmup(VIMCO(3), 10)
    with pytest.raises(ValueError, match="same sites"):
        warmup.differentiable_loss(model, lambda x: None, X)
    assert warmup.step == 0


@pytest.mark.parametrize("make", [VIMCO, OVIS, lambda *args, **kwargs: DReG(VIMCO(*args, **kwargs))])
def test_losses_and_gradients_are_those_of_the_estimator_at_the_order(make):
    warmup = RenyiWarmup(make(3), 5)
    fixed = make(3)
    for estimator in (warmup, fixed):
        estimator.loss(model, guide, X)  # the trial run that finds the plates draws
    for step in range(7):
        fixed.alpha = max(0.0, 1 - 0.01 ** (1 - step / 5))
        found = []
        for estimator in (warmup, fixed):
            pyro.set_rng_seed(step)
            number = estimator.loss(model, guide, X)
            pyro.set_rng_seed(step)
            pyro.param("logit").grad = None
            loss = estimator.loss_and_grads(model, guide, X)
            assert number == pytest.approx(loss.item(), rel=1e-5)
            found.append((loss, pyro.param("logit").grad.clone()))
        torch.testing.assert_close(found[0], found[1])


def gradients(save_at: int | None) -> list[float]:
    """The gradients of twelve steps; before step `save_at` a new warm-up takes over from the saved state."""
    pyro.clear_param_store()
    guide(X)
    made = []
    warmup = RenyiWarmup(OVIS(3, max_plate_nesting=1), 20, start=0.9)
    for step in range(12):
        if step == save_at:
            state = json.loads(json.dumps(warmup.state_dict()))
            warmup = RenyiWarmup(OVIS(3, max_plate_nesting=1), 20, start=0.9)
            warmup.load_state_dict(state)
        pyro.set_rng_seed(step)
        pyro.param("logit").grad = None
        warmup.loss_and_grads(model, guide, X)
        made.append(pyro.param("logit").grad.item())
    return made


def test_resumed_warmup_continues_exactly():
    assert gradients(save_at=5) == gradients(save_at=None)


def test_state_of_another_schedule():
    warmup = RenyiWarmup(VIMCO(3), 10)
    for state in (RenyiWarmup(VIMCO(3), 11).state_dict(), {}, warmup.state_dict() | {"step": None}):
        with pytest.raises(ValueError, match="'steps': 10, 'start': 0.99, .* got {"):
            warmup.load_state_dict(state)
    assert warmup.step == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps >= 1, got 0"),
        ({"start": 1.0}, "start < 1, got start=1.0"),
        ({"start": 0.2, "end": 0.3}, "end <= start < 1, got start=0.2 and end=0.3"),
        ({"end": -0.1}, "0 <= end"),
    ],
)
def test_bad_schedules(arguments, message):
    with pytest.raises(ValueError, match=message):
        RenyiWarmup(VIMCO(3), **({"steps": 10} | arguments))


def test_estimator_without_an_order():
    with pytest.raises(ValueError, match="bound has an order, such as VIMCO.5., got Trace_ELBO"):
        RenyiWarmup(Trace_ELBO(), 10)
