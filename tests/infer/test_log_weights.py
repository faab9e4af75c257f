# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Log weights per datum: shape, plates, masks, scales and errors."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from pyro_sqair.infer import VIMCO
from pyro_sqair.infer.log_weights import LogWeights, log_weights
from pyro_sqair.infer.plates import guess_max_plate_nesting

X = torch.tensor([0.5, -1.0, 2.0])


def weigh(model, guide, *args, particles: int = 4) -> LogWeights:
    nesting = guess_max_plate_nesting(model, guide, args, {})
    return log_weights(model, guide, args, num_particles=particles, max_plate_nesting=nesting)


def drawn(particles: int, name: str, model, guide, *args) -> tuple[LogWeights, Tensor]:
    """The log weights, and the value that the guide drew at a site."""
    seen = {}

    def spying(*args):
        with poutine.trace() as tracer:
            guide(*args)
        seen[name] = tracer.trace.nodes[name]["value"]

    return weigh(model, spying, *args, particles=particles), seen[name]


def normal(x, loc, scale=1.0):
    return dist.Normal(loc, scale).log_prob(x)


def plain_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def plain_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.5 * x, 0.8))


@pytest.mark.parametrize("particles", [1, 4])
def test_weights_are_per_particle_and_datum(particles):
    out, z = drawn(particles, "z", plain_model, plain_guide, X)
    assert z.shape == (particles, 3)
    torch.testing.assert_close(out.log_likelihood, normal(X, z))
    torch.testing.assert_close(out.log_weight, normal(X, z) + normal(z, 0.0) - normal(z, 0.5 * X, 0.8))
    assert out.score is None
    assert out.scale == 1.0


@pytest.mark.parametrize("how", ["unmasked", "poutine", "distribution", "blanked"])
def test_score_is_log_q_of_discrete_draws_and_is_not_masked(how):
    """A mask applies to the weight only, since a masked draw may still affect later draws."""
    mask = torch.tensor([True, False, False])
    q = dist.Bernoulli(torch.tensor([0.2, 0.5, 0.9]))

    def draw(fn):
        if how == "poutine":
            with poutine.mask(mask=mask):
                return pyro.sample("b", fn)
        return pyro.sample("b", fn if how == "unmasked" else fn.mask(mask if how == "distribution" else False))

    def model(x):
        with pyro.plate("data", len(x)):
            draw(dist.Bernoulli(0.3))
            pyro.sample("z", dist.Normal(x, 1.0))  # has the same distribution in model and guide
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            draw(q)
            pyro.sample("z", dist.Normal(x, 1.0))

    out, b = drawn(4, "b", model, guide, X)
    shown = {"unmasked": torch.ones(3), "blanked": torch.zeros(3)}.get(how, mask.float())
    torch.testing.assert_close(
        out.log_weight, normal(X, 0.0) + shown * (dist.Bernoulli(0.3).log_prob(b) - q.log_prob(b))
    )
    torch.testing.assert_close(out.score, q.log_prob(b))


def test_mask_of_false_for_the_whole_program():
    out = weigh(poutine.mask(plain_model, mask=False), poutine.mask(plain_guide, mask=False), X)
    torch.testing.assert_close(out.log_weight, torch.zeros(4, 3))


def test_scale_acts_inside_the_weight():
    out, z = drawn(4, "z", poutine.scale(plain_model, scale=3.0), plain_guide, X)
    torch.testing.assert_close(out.log_weight, 3 * (normal(X, z) + normal(z, 0.0)) - normal(z, 0.5 * X, 0.8))
    assert out.scale == 1.0


def test_subsampling_of_the_batch_plate_scales_the_bound():
    def model(x):
        with pyro.plate("data", 30, subsample=torch.arange(3)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with poutine.scale(scale=2.0):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 30, subsample=torch.arange(3)):
            pyro.sample("z", dist.Normal(0.5 * x, 0.8))

    out, z = drawn(4, "z", model, guide, X)
    assert out.scale == 10.0
    torch.testing.assert_close(out.log_weight, 2 * normal(X, z) + normal(z, 0.0) - normal(z, 0.5 * X, 0.8))
    elbo = VIMCO(4)
    elbo.loss(model, guide, X)  # the trial run that finds the plates draws
    pyro.set_rng_seed(1)
    per_datum = elbo.surrogate(model, guide, X)
    pyro.set_rng_seed(1)
    torch.testing.assert_close(elbo.differentiable_loss(model, guide, X), -10 * per_datum.sum())
    pyro.set_rng_seed(1)
    assert elbo.loss(model, guide, X) == pytest.approx(-10 * per_datum.sum().item(), rel=1e-6)


def test_inner_plates_are_summed_with_their_subsampling_inside_the_weight():
    y = torch.randn(2, 3)

    def model(y):
        with pyro.plate("data", 3, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("pixels", 8, subsample=torch.arange(2), dim=-2):
                pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    def guide(y):
        with pyro.plate("data", 3, dim=-1):
            pyro.sample("z", dist.Normal(0.5, 0.8))

    out, z = drawn(4, "z", model, guide, y)
    assert z.shape == (4, 1, 3)
    assert out.log_weight.shape == (4, 3)
    assert out.scale == 1.0
    z = z[:, 0]
    pixels = 4 * (normal(y[0], z) + normal(y[1], z))
    torch.testing.assert_close(out.log_weight, pixels + normal(z, 0.0) - normal(z, 0.5, 0.8))


def test_two_batch_plates_around_an_unused_dimension():
    def model(y):
        with pyro.plate("rows", 2, dim=-3), pyro.plate("columns", 3, dim=-1):
            z = pyro.sample("z", dist.Bernoulli(0.4))
            with pyro.plate("views", 5, dim=-2):
                pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    def guide(y):
        with pyro.plate("rows", 2, dim=-3), pyro.plate("columns", 3, dim=-1):
            pyro.sample("z", dist.Bernoulli(0.7))

    y = torch.randn(2, 5, 3)
    out, z = drawn(4, "z", model, guide, y)
    prior, q = dist.Bernoulli(0.4).log_prob(z), dist.Bernoulli(0.7).log_prob(z)
    assert out.log_weight.shape == out.score.shape == (4, 2, 3)
    torch.testing.assert_close(out.log_weight, (normal(y, z).sum(-2, True) + prior - q)[..., 0, :])
    torch.testing.assert_close(out.score, q[..., 0, :])


def test_sequential_plates_and_deterministic_sites_have_no_effect():
    def model(x):
        pyro.deterministic("half", x / 2)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            for i in pyro.plate("views", 2):
                pyro.sample(f"x_{i}", dist.Normal(z, 1.0), obs=x)

    out, z = drawn(4, "z", model, plain_guide, X)
    torch.testing.assert_close(out.log_weight, 2 * normal(X, z) + normal(z, 0.0) - normal(z, 0.5 * X, 0.8))


def test_pair_without_plates_is_one_datum():
    def model():
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=X)

    def guide():
        pyro.sample("z", dist.Normal(X, 1.0).to_event(1))

    out, z = drawn(4, "z", model, guide)
    assert z.shape == (4, 3)
    torch.testing.assert_close(out.log_weight, (normal(X, z) + normal(z, 0.0) - normal(z, X)).sum(-1))


def test_sites_without_particle_or_batch_dimensions_broadcast():
    """An observed site whose distribution does not depend on the particle, and a scalar factor."""

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)
            pyro.factor("bonus", torch.tensor(7.0))

    out, z = drawn(4, "z", model, plain_guide, X)
    torch.testing.assert_close(out.log_likelihood, (normal(X, 0.0) + 7).expand(4, 3))
    torch.testing.assert_close(out.log_weight, normal(X, 0.0) + 7 + normal(z, 0.0) - normal(z, 0.5 * X, 0.8))


def test_auxiliary_guide_site_counts_in_q():
    def guide(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(2 * u, log_density=-torch.log(torch.tensor(2.0))))

    out, z = drawn(4, "z", plain_model, guide, X)
    torch.testing.assert_close(out.log_weight, normal(X, z) + normal(z, 0.0) - normal(z, 0.0, 2.0))


def test_pyro_autoguide_works():
    guide = pyro.infer.autoguide.AutoNormal(plain_model)
    assert weigh(plain_model, guide, X).log_weight.shape == (4, 3)


def test_trial_run_is_hidden_from_outer_handlers():
    with poutine.trace() as tracer:
        assert guess_max_plate_nesting(plain_model, plain_guide, (X,), {}) == 1
    assert not tracer.trace.nodes


def test_double_precision_is_kept():
    out = weigh(plain_model, plain_guide, X.double())
    assert out.log_weight.dtype == torch.float64
