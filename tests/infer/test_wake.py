# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Reweighted wake-sleep: equals Pyro's for one datum; dreams by enumeration; no gradient passes through draws.

The expected gradient of wake-wake is enumerated in test_multi_sample.py.
"""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from enumeration import Forced, leaf, log_bernoulli
from pyro import poutine
from pyro.infer import ReweightedWakeSleep
from pyro.infer.autoguide import AutoNormalMessenger
from torch import Tensor

from pyro_sqair.experiments import SQAIRSystem
from pyro_sqair.infer import RWS
from pyro_sqair.infer.wake import DetachedDraws
from pyro_sqair.scene.objects import SceneConfig


def observed(trace, x):
    """The dream for a program whose data is the site x."""
    return (trace.nodes["x"]["value"],)


def model(x, observations=None):
    theta = pyro.param("theta", torch.tensor([0.3, -0.2, 0.6]))
    with pyro.plate("data", len(x)):
        b = pyro.sample("b", dist.Bernoulli(logits=theta[0]))
        c = pyro.sample("c", dist.Bernoulli(logits=theta[1] * b))
        z = pyro.sample("z", dist.Normal(theta[2] + c, 1.0))
        pyro.sample("x", dist.Normal(z + b, 1.0), obs=x)


def guide(x, observations=None):
    """Pyro passes dreams by keyword; RWS passes them in place of x."""
    x = x if observations is None else observations["x"]
    phi = pyro.param("phi", torch.tensor([0.1, 0.4, -0.3]))
    with pyro.plate("data", len(x)):
        b = pyro.sample("b", dist.Bernoulli(logits=phi[0] * x))
        c = pyro.sample("c", dist.Bernoulli(logits=phi[1] * b))
        pyro.sample("z", dist.Normal(phi[2] * x + c, 0.7))


def gradients(elbo, x: Tensor) -> list[Tensor]:
    pyro.clear_param_store()
    model(x), guide(x)  # create the parameters
    pyro.set_rng_seed(0)
    loss = elbo.loss_and_grads(model, guide, x)
    loss = loss[0] if isinstance(loss, tuple) else loss.item()
    return [torch.tensor(loss), *(pyro.param(name).grad.clone() for name in ("theta", "phi"))]


def pyros(num_particles: int, insomnia: float) -> ReweightedWakeSleep:
    return ReweightedWakeSleep(num_particles, insomnia, num_sleep_particles=1, max_plate_nesting=1)


@pytest.mark.parametrize("insomnia", [1.0, 0.4, 0.0])
@pytest.mark.parametrize("num_particles", [2, 5])
def test_equals_pyros_for_one_datum(num_particles, insomnia):
    """Loss and gradients of wake-wake, wake-sleep and a mixture, with the same draws."""
    x = torch.tensor([1.3])
    got = gradients(RWS(num_particles, 1, insomnia, observed), x)
    torch.testing.assert_close(got, gradients(pyros(num_particles, insomnia), x))


def test_weights_are_per_datum_and_pyros_per_batch():
    """RWS of two data is the sum of both alone; Pyro has joint weights, and the bound of both together."""
    x = torch.tensor([1.3, -2.0])
    noise = {"z": torch.randn(3, 2)}
    bits = {name: torch.randint(0, 2, (3, 2)).float() for name in ("b", "c")}

    def found(elbo, rows: list[int]) -> list[Tensor]:
        with Forced({k: v[:, rows] for k, v in bits.items()}, {k: v[:, rows] for k, v in noise.items()}):
            return gradients(elbo, x[rows])

    alone = [found(RWS(3, 1), [0]), found(RWS(3, 1), [1])]
    summed = [a + b for a, b in zip(*alone, strict=True)]
    torch.testing.assert_close(found(RWS(3, 1), [0, 1]), summed)
    for ours, theirs in zip(summed, found(pyros(3, 1.0), [0, 1]), strict=True):
        assert not torch.allclose(ours, theirs, rtol=0.01)


def test_dreams_by_enumeration():
    """insomnia=0: the gradient of the guide is that of E[log q(z | x)] over z and x from the model."""
    bits = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)), dtype=torch.float64).T  # z_1, z_2, x
    shared, theta, phi = leaf(0.4), leaf(-0.3, 0.8), leaf(0.5, -0.6)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z_1", dist.Bernoulli(logits=theta[0]))
            z = pyro.sample("z_2", dist.Bernoulli(logits=shared * z))
            pyro.sample("x", dist.Bernoulli(logits=theta[1] * z + shared), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z_1", dist.Bernoulli(logits=phi[0] * x + shared))
            with poutine.mask(mask=z.bool()):
                pyro.sample("z_2", dist.Bernoulli(logits=phi[1] * x - z))

    z_1, z_2, x = bits
    log_p = log_bernoulli(z_1, theta[0]) + log_bernoulli(z_2, shared * z_1) + log_bernoulli(x, theta[1] * z_2 + shared)
    log_q = log_bernoulli(z_1, phi[0] * x + shared) + z_1 * log_bernoulli(z_2, phi[1] * x - z_1)
    probability = log_p.exp().detach()
    torch.testing.assert_close(probability.sum(), torch.ones((), dtype=torch.float64))
    # The gradient of the model is that of log p at fixed draws, since K = 1.
    wanted = torch.autograd.grad((probability * (log_p + log_q)).sum(), (shared, theta, phi))
    with Forced({"z_1": z_1, "z_2": z_2, "x": x}, {}):
        surrogate = RWS(1, 1, 0.0, observed).surrogate(model, guide, x)
    got = torch.autograd.grad((probability * surrogate).sum(), (shared, theta, phi))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
    assert (torch.cat([got[0], got[2]]).abs() > 1e-2).all()  # that of theta is zero: the mean of a score


def test_dreams_of_a_subsample_are_scaled_to_all_data():
    """Model and guide use the same 3 of 30 data, each with factor 10."""
    phi = torch.tensor(0.3, requires_grad=True)
    seen = []

    def model(x):
        with pyro.plate("data", 30, subsample_size=3) as rows:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])
        seen.append(rows)

    def guide(x):
        with pyro.plate("data", 30, subsample_size=3) as rows:
            pyro.sample("z", dist.Normal(phi * (x[rows] if len(x) == 30 else x), 1.0))
        seen.append(rows)

    dreams = []

    def dream(trace, x):
        dreams.append({name: trace.nodes[name]["value"] for name in ("z", "x")})
        return (dreams[-1]["x"],)

    RWS(1, 1, 0.0, dream).differentiable_loss(model, guide, torch.randn(30)).backward()
    assert torch.equal(seen[-1], seen[-2])
    z, x = dreams[-1]["z"], dreams[-1]["x"]
    torch.testing.assert_close(phi.grad, -10 * ((z - 0.3 * x) * x).sum())


def test_no_gradient_passes_through_a_draw():
    """Neither to the parameters of a later draw, nor from the caches of transformed distributions."""
    a, b = torch.tensor(0.4, requires_grad=True), torch.tensor(-0.2, requires_grad=True)
    draws = []

    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.LogNormal(a * x, b.exp()))
            draws[:] = z, pyro.sample("u", dist.Normal(z, 0.5))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.LogNormal(torch.zeros(2), 1.0))
            u = pyro.sample("u", dist.Normal(z, 1.0))
            pyro.sample("x", dist.Normal(u, 1.0), obs=x)

    x = torch.tensor([0.8, -1.2])
    RWS(3, 1).differentiable_loss(model, guide, x).backward()
    z, u = draws
    assert not z.requires_grad
    assert not u.requires_grad
    log_p = dist.LogNormal(0.0, 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(u) + dist.Normal(u, 1.0).log_prob(x)
    log_q = dist.LogNormal(a * x, b.exp()).log_prob(z) + dist.Normal(z, 0.5).log_prob(u)
    loss = -((log_p - log_q).softmax(0).detach() * log_q).sum()
    torch.testing.assert_close((a.grad, b.grad), torch.autograd.grad(loss, (a, b)))


def test_detached_draws_does_not_change_observations():
    x = torch.ones(2, requires_grad=True)
    with DetachedDraws(), pyro.plate("data", 2):
        assert pyro.sample("x", dist.Normal(0.0, 1.0), obs=x) is x
        assert not pyro.sample("z", dist.Normal(x, 1.0)).requires_grad


def test_sqair_learns_from_its_dreams():
    scene = SceneConfig(num_slots=2, what_dim=2, image_size=(8, 8), glimpse_size=(4, 4))
    model, guide = SQAIRSystem(4).programs(scene)
    frames = torch.rand(2, 3, 1, 8, 8)

    def dream(trace, frames):
        pixels = [trace.nodes[f"frame_{t}/image"]["value"] for t in range(len(frames))]
        return (torch.stack(pixels).reshape(frames.shape).clamp(0, 1),)

    RWS(3, insomnia=0.0, dream=dream)(model, guide)(frames).backward()
    for name, parameter in [*model.named_parameters(), *guide.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_bad_arguments():
    with pytest.raises(ValueError, match="0 <= insomnia <= 1, got 1.5"):
        RWS(3, insomnia=1.5)
    with pytest.raises(ValueError, match="`dream` with insomnia=0.5 < 1, got none"):
        RWS(3, insomnia=0.5)
    with pytest.raises(ValueError, match="num_particles >= 2 for RWS, got 1"):
        RWS(1, insomnia=0.5, dream=observed)
    with pytest.raises(ValueError, match="num_particles >= 1 for RWS, got 0"):
        RWS(0, insomnia=0.0, dream=observed)
    with pytest.raises(NotImplementedError, match="no score signal"):
        RWS(3).signal(torch.zeros(3, 1))


def auxiliary_guide(x):
    with pyro.plate("data", len(x)):
        for name in ("b", "c"):
            pyro.sample(name, dist.Bernoulli(0.5))
        u = pyro.sample("u", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Normal(u, 1.0))


def continuous_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def narrow_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("b", dist.Bernoulli(0.5))
        pyro.sample("c", dist.Bernoulli(0.5))
        pyro.sample("z", dist.Uniform(-0.01, 0.01, validate_args=False))


@pytest.mark.parametrize(
    ("guide", "dream", "message"),
    [
        (
            auxiliary_guide,
            observed,
            "every site of the guide in the model's dreams, got 'u' in the guide alone.*insomnia=1",
        ),
        (narrow_guide, observed, "finite log-probabilities of the model's dreams .* got others at 'z'.*support"),
        (guide, lambda trace, x: x, "dream to return a tuple of arguments, got Tensor"),
        (AutoNormalMessenger(continuous_model), observed, "got a GuideMessenger.*insomnia=1"),
    ],
)
def test_pairs_that_cannot_dream(guide, dream, message):
    x = torch.tensor([1.3, 0.2])
    program = guide.model if isinstance(guide, AutoNormalMessenger) else model
    assert RWS(2).differentiable_loss(program, guide, x) < 1e6
    with pytest.raises(ValueError, match=message):
        RWS(2, insomnia=0.5, dream=dream).differentiable_loss(program, guide, x)
