# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""IWAE without a score term equals Pyro's IWAE for the same draws."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO

from pyro_sqair.infer import VIMCO, IWAEWithoutScore

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(2))


def model(x):
    theta = pyro.param("theta", torch.tensor([0.3, -0.2]))
    with pyro.plate("data", 4, dim=-1):
        z = pyro.sample("z", dist.Normal(theta[0], 1.0))
        b = pyro.sample("b", dist.Bernoulli(logits=theta[1] * z))
        with pyro.plate("parts", 3, dim=-2), poutine.mask(mask=x > -1):
            u = pyro.sample("u", dist.Normal(b, 1.0))
            pyro.sample("x", dist.Normal(z + u, 1.0), obs=x)


def guide(x):
    phi = pyro.param("phi", torch.tensor([0.1, 0.4, -0.3, 0.6]))
    with pyro.plate("data", 4, dim=-1):
        z = pyro.sample("z", dist.Normal(phi[0] * x.sum(0), 0.7))
        with poutine.scale(scale=0.8):
            b = pyro.sample("b", dist.Bernoulli(logits=phi[1] * z + phi[3]))
        with pyro.plate("parts", 3, dim=-2), poutine.mask(mask=x > -1):
            pyro.sample("u", dist.Normal(phi[2] * x + b, 0.9))


def gradients(elbo, model, guide) -> dict[str, torch.Tensor]:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    loss = elbo.loss_and_grads(model, guide, X)
    grads = {name: pyro.param(name).grad.clone() for name in ("theta", "phi")}
    return grads | {"loss": torch.as_tensor(loss).detach()}


@pytest.mark.parametrize("num_particles", [2, 5])
def test_equals_pyros_renyi_elbo_of_order_zero(num_particles):
    """With inner plates, masks, a scale, and a discrete draw that depends on a reparameterised one."""
    wanted = gradients(RenyiELBO(0, num_particles, max_plate_nesting=2, vectorize_particles=True), model, guide)
    got = gradients(IWAEWithoutScore(num_particles, max_plate_nesting=2), model, guide)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    assert (got["phi"][[1, 3]] == 0).all()  # parameters of the discrete draw alone
    assert (got["phi"][[0, 2]] != 0).all()


def plain_model(x):
    with pyro.plate("data", 4):
        z = pyro.sample("z", dist.Normal(pyro.param("theta", torch.tensor(0.3)), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[0])


def plain_guide(x):
    with pyro.plate("data", 4):
        pyro.sample("z", dist.Normal(pyro.param("phi", torch.tensor(0.1)) * x[0], 0.7))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (IWAEWithoutScore(1, max_plate_nesting=1), Trace_ELBO(max_plate_nesting=1)),
        (IWAEWithoutScore(4, max_plate_nesting=1), VIMCO(4, max_plate_nesting=1)),
        (VIMCO(4, max_plate_nesting=1), RenyiELBO(0, 4, max_plate_nesting=1, vectorize_particles=True)),
    ],
    ids=["one particle: ELBO", "four particles: VIMCO", "VIMCO: Pyro's IWAE"],
)
def test_without_discrete_draws(one, other):
    torch.testing.assert_close(*(gradients(elbo, plain_model, plain_guide) for elbo in (one, other)))
