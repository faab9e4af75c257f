# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The two Gaussians against PyTorch's own."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.autograd import gradcheck

from pyro_sqair.scene.distributions import CorrelatedNormal, ImageNormal


def within_standard_errors(samples, mean, variance, num=5.0):
    """Whether sample mean and variance of `samples` [S, *] lie within `num` standard errors of a Gaussian's."""
    count = samples.shape[0]
    mean_error = (samples.mean(0) - mean).abs() / (variance / count).sqrt()
    variance_error = (samples.var(0) - variance).abs() / (variance * (2 / (count - 1)) ** 0.5)
    return mean_error.max() < num and variance_error.max() < num


def image_pair(batch=(2, 3), std=0.3, dtype=torch.float64):
    mean = torch.rand(*batch, 2, 4, 5, dtype=dtype)
    return ImageNormal(mean, std), dist.Normal(mean, std).to_event(3)


def correlated_pair(batch=(2, 3), size=4):
    loc = torch.randn(*batch, size, dtype=torch.float64)
    scale = torch.rand(*batch, size, dtype=torch.float64) + 0.1
    factor = torch.randn(size, size, dtype=torch.float64).tril(-1) + torch.diag(torch.rand(size).double() + 0.5)
    oracle = dist.MultivariateNormal(loc, scale_tril=scale.unsqueeze(-1) * factor)
    return CorrelatedNormal(loc, scale, factor), oracle


@pytest.mark.parametrize("pair", [image_pair, correlated_pair])
class TestAgainstTorch:
    @pytest.mark.parametrize("batch", [(), (3,), (2, 3), (4, 2, 3)])
    def test_shapes_and_log_prob(self, pair, batch):
        law, oracle = pair(batch)
        value = oracle.sample()
        assert law.batch_shape == oracle.batch_shape == batch
        assert law.event_shape == oracle.event_shape
        assert law.sample().shape == oracle.sample().shape
        torch.testing.assert_close(law.log_prob(value), oracle.log_prob(value), rtol=1e-12, atol=1e-10)
        torch.testing.assert_close(law.mean, oracle.mean)
        torch.testing.assert_close(law.variance, oracle.variance)

    def test_log_prob_broadcasts(self, pair):
        law, oracle = pair((3,))
        value = torch.rand(2, *law.shape(), dtype=torch.float64)
        torch.testing.assert_close(law.log_prob(value), oracle.log_prob(value))

    def test_moments(self, pair):
        law, oracle = pair((2,))
        samples = law.rsample(torch.Size([4000]))
        assert samples.shape == (4000, *law.shape())
        assert within_standard_errors(samples, oracle.mean, oracle.variance)

    def test_expand(self, pair):
        law, oracle = pair((3,))
        law, oracle = law.expand(torch.Size([2, 3])), oracle.expand((2, 3))
        assert law.batch_shape == (2, 3)
        value = oracle.sample()
        torch.testing.assert_close(law.log_prob(value), oracle.log_prob(value))
        draw = law.sample()
        assert draw.shape == oracle.sample().shape
        assert not torch.equal(draw[0], draw[1]), "an expanded law draws independently"

    def test_validation(self, pair):
        law, _ = pair()
        with pytest.raises(ValueError, match="nan|invalid"):
            law.log_prob(torch.full(law.shape(), torch.nan, dtype=torch.float64))

    def test_in_a_plate(self, pair):
        law, oracle = pair(())
        with pyro.plate("particles", 5, dim=-2), pyro.plate("sequences", 3, dim=-1):
            value = pyro.sample("x", law)
        assert value.shape == (5, 3, *oracle.event_shape)


def test_image_float32_stays_float32():
    law, oracle = image_pair(dtype=torch.float32)
    value = oracle.sample()
    assert law.sample().dtype == law.log_prob(value).dtype == torch.float32
    torch.testing.assert_close(law.log_prob(value), oracle.log_prob(value))


def test_image_gradients():
    mean = torch.rand(2, 1, 2, 3, dtype=torch.float64, requires_grad=True)
    value = torch.rand(2, 1, 2, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda m, v: ImageNormal(m, 0.3).log_prob(v), (mean, value))


def test_correlated_gradients():
    law, oracle = correlated_pair((2,))
    value = oracle.sample()
    inputs = [t.detach().requires_grad_() for t in (law.loc, law.scale, law.factor, value)]
    # tril: outside the triangle the factor's entries are no parameters
    assert gradcheck(lambda loc, s, f, v: CorrelatedNormal(loc, s, f.tril()).log_prob(v), inputs)


def test_correlated_covariance():
    law, oracle = correlated_pair(())
    samples = law.sample(torch.Size([20000]))
    centred = samples - oracle.mean
    covariance = centred.T @ centred / len(samples)
    variance = oracle.variance
    error = ((variance[:, None] * variance + oracle.covariance_matrix.square()) / len(samples)).sqrt()
    assert ((covariance - oracle.covariance_matrix).abs() / error).max() < 5


def test_correlated_rsample_is_reparameterised():
    law, _ = correlated_pair((3,))
    loc, scale, factor = (t.detach().requires_grad_() for t in (law.loc, law.scale, law.factor))
    CorrelatedNormal(loc, scale, factor).rsample().sum().backward()
    assert torch.equal(loc.grad, torch.ones_like(loc))
    assert scale.grad.abs().min() > 0
    assert factor.grad.abs().max() > 0


def test_correlated_broadcasts_loc_and_scale():
    law = CorrelatedNormal(torch.zeros(2, 1, 4), torch.ones(3, 4), torch.eye(4))
    assert law.batch_shape == (2, 3)
    assert law.sample().shape == (2, 3, 4)


@pytest.mark.parametrize("scale", [torch.tensor([1.0, 0.0]), torch.tensor([1.0, -1.0])])
def test_correlated_scale_must_be_positive(scale):
    with pytest.raises(ValueError, match="scale"):
        CorrelatedNormal(torch.zeros(2), scale, torch.eye(2))
