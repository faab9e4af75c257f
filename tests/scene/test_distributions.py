# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The two Gaussians equal PyTorch's own."""

import pyro.distributions as dist
import pytest
import torch
from torch.autograd import gradcheck

from pyro_sqair.scene.distributions import CorrelatedNormal, ImageNormal


def image_pair(batch=(2, 3), std=0.3):
    mean = torch.rand(*batch, 2, 4, 5, dtype=torch.float64)
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
        ours, oracle = pair(batch)
        value = oracle.sample()
        assert ours.batch_shape == oracle.batch_shape == batch
        assert ours.event_shape == oracle.event_shape
        assert ours.sample().shape == oracle.sample().shape
        torch.testing.assert_close(ours.log_prob(value), oracle.log_prob(value), rtol=1e-12, atol=1e-10)
        torch.testing.assert_close(ours.mean, oracle.mean)

    def test_moments(self, pair):
        """Means and covariances of 20,000 draws, within 5 standard errors."""
        ours, oracle = pair(())
        samples = ours.rsample(torch.Size([20_000]))
        assert samples.shape == (20_000, *ours.shape())
        variance = oracle.variance.flatten()
        exact = getattr(oracle, "covariance_matrix", variance.diag())
        centred = (samples - oracle.mean).flatten(1)
        assert (centred.mean(0).abs() < 5 * (variance / 20_000).sqrt()).all()
        error = ((variance[:, None] * variance + exact.square()) / 20_000).sqrt()
        assert ((centred.T @ centred / 20_000 - exact).abs() / error).max() < 5

    def test_broadcast_and_expand(self, pair):
        ours, oracle = pair((3,))
        value = oracle.sample((2,))
        torch.testing.assert_close(ours.log_prob(value), oracle.log_prob(value))
        ours = ours.expand(torch.Size([2, 3]))
        assert ours.batch_shape == (2, 3)
        torch.testing.assert_close(ours.log_prob(value), oracle.log_prob(value))
        draw = ours.sample()
        assert draw.shape == value.shape
        assert not torch.equal(draw[0], draw[1]), "draws of an expanded distribution are not independent"

    def test_validation(self, pair):
        ours, _ = pair()
        with pytest.raises(ValueError, match="nan|invalid"):
            ours.log_prob(torch.full(ours.shape(), torch.nan, dtype=torch.float64))


def test_image_float32():
    image = ImageNormal(torch.rand(2, 1, 4, 5), 0.3)
    assert image.sample().dtype == image.log_prob(image.mean).dtype == torch.float32


def test_gradients():
    mean, value = (torch.rand(2, 1, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert gradcheck(lambda m, v: ImageNormal(m, 0.3).log_prob(v), (mean, value))
    ours, oracle = correlated_pair((2,))
    inputs = [t.detach().requires_grad_() for t in (ours.loc, ours.scale, ours.factor, oracle.sample())]
    # tril: the factor's entries above the diagonal are not parameters
    assert gradcheck(lambda loc, s, f, v: CorrelatedNormal(loc, s, f.tril()).log_prob(v), inputs)


def test_correlated_rsample_is_reparameterised():
    ours, _ = correlated_pair((3,))
    loc, scale, factor = (t.detach().requires_grad_() for t in (ours.loc, ours.scale, ours.factor))
    CorrelatedNormal(loc, scale, factor).rsample().sum().backward()
    assert torch.equal(loc.grad, torch.ones_like(loc))
    assert scale.grad.abs().min() > 0
    assert factor.grad.abs().max() > 0


def test_correlated_broadcasts_loc_and_scale():
    ours = CorrelatedNormal(torch.zeros(2, 1, 4), torch.ones(3, 4), torch.eye(4))
    assert ours.batch_shape == (2, 3)
    assert ours.sample().shape == (2, 3, 4)


@pytest.mark.parametrize("scale", [torch.tensor([1.0, 0.0]), torch.tensor([1.0, -1.0])])
def test_correlated_scale_must_be_positive(scale):
    with pytest.raises(ValueError, match="scale"):
        CorrelatedNormal(torch.zeros(2), scale, torch.eye(2))
