# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""DReG with plates, subsampling, autoguides, and draws that it does not convert."""

import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from dreg_outcomes import F64, normal
from enumeration import Forced
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormalMessenger, init_to_value
from pyro.poutine.plate_messenger import block_plate

from pyro_sqair.infer import VIMCO, DReG, IWAEWithoutScore


def compare_with_vimco(pair, leaves, data, num_particles, nesting, scale=1.0):
    """The gradients of VIMCO and DReG(VIMCO) for replicas of one datum, with the same draws, agree in the mean.

    Returns:
        The standard error of the mean difference, for each of the leaves.
    """
    gradients = []
    for elbo in (VIMCO(num_particles, nesting), DReG(VIMCO(num_particles, nesting))):
        pyro.set_rng_seed(0)
        loss = elbo.differentiable_loss(*pair, data)
        gradients.append(torch.stack(torch.autograd.grad(-loss / scale, leaves)))
    difference = gradients[0] - gradients[1]
    error = difference.std(1) / math.sqrt(difference.shape[1])
    assert (difference.mean(1).abs() <= 4 * error).all()
    assert (gradients[0].mean(1).abs() > 10 * error).all()
    return error


class TestShapes:
    def test_inner_plates_and_subsampling(self):
        """2 of 6 pixels are drawn, so each has factor 3 in the weight; each datum has factor 2.5 on its bound."""
        replicas, data = 4000, 4
        y = torch.randn(2, 1, dtype=F64).expand(2, data * replicas)
        leaves = [torch.full((data * replicas,), v, dtype=F64, requires_grad=True) for v in (1.5, -0.2, 0.6)]
        index = torch.arange(data * replicas)

        def model(y):
            with pyro.plate("data", 10 * replicas, subsample=index, dim=-1):
                u = pyro.sample("u", normal(torch.zeros((), dtype=F64), 1.0))
                with pyro.plate("pixels", 6, subsample=torch.arange(2), dim=-2):
                    z = pyro.sample("z", normal(u, 1.0))
                    pyro.sample("y", normal(z, 2.0), obs=y)

        def guide(y):
            with pyro.plate("data", 10 * replicas, subsample=index, dim=-1):
                u = pyro.sample("u", normal(leaves[0], leaves[1].exp()))
                with pyro.plate("pixels", 6, subsample=torch.arange(2), dim=-2):
                    pyro.sample("z", normal(leaves[2] * u + 0.2 * y, 0.9))

        assert (compare_with_vimco((model, guide), leaves, y, 2, 2, scale=2.5) > 0).all()

    @pytest.mark.parametrize("num_particles", [1, 2])
    def test_autoguide_whose_sites_are_point_masses_with_a_density(self, num_particles):
        """AutoDiagonalNormal draws one auxiliary site; z is a Delta whose log density is that of the Jacobian."""

        def model():
            z = pyro.sample("z", dist.Gamma(torch.tensor(2.0, dtype=F64), torch.tensor(1.5, dtype=F64)))
            pyro.sample("x", normal(z, 1.0), obs=torch.tensor(2.5, dtype=F64))

        torch.set_default_dtype(F64)
        # Fixed initial values, since the quadrature error depends on them.
        guide = AutoDiagonalNormal(model, init_to_value(values={"z": torch.tensor(1.4)}), init_scale=0.3)
        guide()
        estimator = IWAEWithoutScore(num_particles, max_plate_nesting=0)
        nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(18))
        total: list = [0.0, 0.0]
        for chosen in itertools.product(range(18), repeat=num_particles):
            index = torch.tensor(chosen)
            weight = (weights[index] / weights.sum()).prod()
            if weight < 1e-9:
                continue
            for i, elbo in enumerate((estimator, DReG(estimator))):
                with Forced({}, {"_AutoDiagonalNormal_latent": nodes[index].unsqueeze(-1)}):
                    loss = elbo.differentiable_loss(model, guide)
                total[i] = total[i] + weight * torch.stack(torch.autograd.grad(loss, list(guide.parameters())))
        assert (total[0].abs() > 0.01).all()
        torch.testing.assert_close(total[1], total[0], rtol=0, atol=1e-5)

    @pytest.mark.parametrize("draw", ["point mass", "no parameters"])
    def test_draws_that_are_not_converted_keep_the_gradient_of_the_wrapped_estimator(self, draw):
        theta = torch.tensor(0.5, requires_grad=True)

        def model():
            z = pyro.sample("z", dist.Normal(theta, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.2))

        def guide():
            pyro.sample("z", dist.Normal(0.4, 1.0))

        if draw == "point mass":
            guide = AutoDelta(model)
            guide()
        leaves = [theta, *guide.parameters()] if draw == "point mass" else [theta]
        gradients = []
        for elbo in (IWAEWithoutScore(3, 0), DReG(IWAEWithoutScore(3, 0))):
            pyro.set_rng_seed(0)
            gradients.append(torch.autograd.grad(elbo.differentiable_loss(model, guide), leaves))
        assert gradients[0] == gradients[1]
        assert all(gradient != 0 for gradient in gradients[0])

    def test_draw_shared_by_particles(self):
        """u is drawn once and z for each particle: only z is converted."""
        replicas = 20_000
        leaves = [torch.full((replicas,), v, dtype=F64, requires_grad=True) for v in (1.2, 0.2, 0.1)]
        x = torch.full((replicas,), 0.8, dtype=F64)

        def draw_u(fn):
            with block_plate(dim=-2, strict=False):
                return pyro.sample("u", fn)

        def model(x):
            with pyro.plate("data", len(x)):
                u = draw_u(normal(torch.zeros(len(x), dtype=F64), 1.0))
                z = pyro.sample("z", normal(u, 1.0))
                pyro.sample("x", normal(z, 0.8), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                u = draw_u(normal(leaves[0], 0.5))
                pyro.sample("z", normal(leaves[1] * u + leaves[2] * x, 0.9))

        error = compare_with_vimco((model, guide), leaves, x, 3, 1)
        assert (error > 0).tolist() == [False, True, True]

    def test_guide_messenger(self):
        """A guide that runs together with the model."""

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        x, runs = torch.full((1000,), 0.9), 30
        guide = AutoNormalMessenger(model, init_scale=0.5, amortized_plates=("data",))
        elbo = VIMCO(3, max_plate_nesting=1)
        elbo.loss(model, guide, x)
        gradients = []
        for estimator in (elbo, DReG(elbo)):
            losses = [estimator.differentiable_loss(model, guide, x) / len(x) for _ in range(runs)]
            each = [torch.stack(torch.autograd.grad(loss, list(guide.parameters()))) for loss in losses]
            gradients.append(torch.stack(each))
        plain, doubly = gradients
        error = ((plain.var(0) + doubly.var(0)) / runs).sqrt()
        assert ((plain.mean(0) - doubly.mean(0)).abs() < 4 * error).all()
        assert (plain.mean(0).abs() > 10 * error).all()
