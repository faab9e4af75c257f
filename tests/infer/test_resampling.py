# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Resampling schemes: expected and possible numbers of copies, and extreme weights."""

import itertools
import math

import pytest
import torch
from no_host_reads import NoHostReads
from torch import Tensor

from pyro_sqair.infer import resampling
from pyro_sqair.infer.resampling import SCHEMES, check_threshold, multinomial, resample, scheme, systematic

ALL = sorted(SCHEMES)


def copies(ancestors: Tensor) -> Tensor:
    """The number of copies of each particle: [K, *batch] to int64 [K, *batch]."""
    return torch.zeros_like(ancestors).scatter_add_(0, ancestors, torch.ones_like(ancestors))


def weights(num_particles: int, batch: int, spread: float = 1.5) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    logits = spread * torch.randn(num_particles, batch, generator=generator, dtype=torch.float64)
    return logits.softmax(0)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("num_particles", [2, 5, 16])
def test_expected_number_of_copies(name, num_particles):
    weight = weights(num_particles, 3)
    draws = 20_000
    many = weight.unsqueeze(-1).expand(-1, -1, draws)  # a batch of two dimensions
    count = copies(SCHEMES[name](many)).double()
    assert (count.sum(0) == num_particles).all()
    error = (count.std(-1) / math.sqrt(draws)).clamp(min=1e-12)
    assert ((count.mean(-1) - num_particles * weight).abs() < 4 * error + 1e-9).all()


@pytest.mark.parametrize("name", ALL)
def test_the_test_above_detects_an_error_of_a_tenth(name):
    """With one weight a tenth too large, the averages differ by more than 4 standard errors."""
    weight = weights(5, 1).expand(-1, 20_000)
    wrong = weight * torch.tensor([1, 1, 1.1, 1, 1], dtype=torch.float64).unsqueeze(-1)
    count = copies(SCHEMES[name](wrong / wrong.sum(0))).double()
    error = count.std(-1) / math.sqrt(count.shape[-1])
    assert ((count.mean(-1) - 5 * weight[:, 0]).abs() > 4 * error).any()


def test_variance_of_multinomial_copies():
    weight = weights(5, 1)
    count = copies(multinomial(weight.expand(-1, 40_000))).double()
    torch.testing.assert_close(count.var(-1), (5 * weight * (1 - weight))[:, 0], rtol=0.05, atol=0)


@pytest.mark.parametrize("name", ["stratified", "systematic"])
def test_less_noise_than_multinomial(name):
    weight = weights(8, 1).expand(-1, 20_000)
    multinomial_variance, variance = (copies(SCHEMES[n](weight)).double().var(-1).sum() for n in ("multinomial", name))
    assert variance < 0.7 * multinomial_variance


def test_ancestors_of_multinomial_are_independent():
    """For K = 2, the frequency of each pair is the product of its weights, within 4 standard errors."""
    weight = torch.tensor([[0.3], [0.7]], dtype=torch.float64)
    draws = 40_000
    first, second = multinomial(weight.expand(-1, draws))
    for i, j in itertools.product(range(2), repeat=2):
        share = ((first == i) & (second == j)).double().mean().item()
        exact = (weight[i] * weight[j]).item()
        assert abs(share - exact) < 4 * math.sqrt(exact * (1 - exact) / draws)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_systematic_copies_are_floor_or_ceil(dtype):
    weight = weights(7, 5000, spread=2.0).to(dtype)
    count = copies(systematic(weight))
    expected = 7 * weight.double()
    slack = 1e-5 if dtype == torch.float32 else 1e-12
    assert (count >= (expected - slack).floor()).all()
    assert (count <= (expected + slack).ceil()).all()
    assert len(count.unique()) > 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_integer_expected_copies_are_not_random(dtype):
    weight = torch.tensor([0.25, 0.0, 0.5, 0.25, 0, 0, 0, 0], dtype=dtype).unsqueeze(-1).expand(-1, 1000)
    count = copies(systematic(weight))
    assert (count == torch.tensor([2, 0, 4, 2, 0, 0, 0, 0]).unsqueeze(-1)).all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("offset", [0.0, 1 - 2**-24, 1 - 2**-12, 0.5])
@pytest.mark.parametrize("num_particles", [3, 1000])
def test_extreme_points_never_hit_a_weight_of_zero(name, offset, num_particles, monkeypatch):
    """In float32, cumulative weights may end slightly off 1, and (K - 1 + u) / K may round to 1."""
    monkeypatch.setattr(resampling.torch, "rand_like", lambda like: torch.full_like(like, offset))
    generator = torch.Generator().manual_seed(0)
    weight = torch.rand(num_particles, 200, generator=generator).pow(4)
    weight[torch.rand(num_particles, 200, generator=generator) < 0.4] = 0
    weight[0], weight[-1] = 0, 0
    weight[num_particles // 2] = 0.1
    weight = weight / weight.sum(0)
    ancestors = SCHEMES[name](weight)
    assert ancestors.min() >= 0
    assert ancestors.max() < num_particles
    assert (weight.gather(0, ancestors) > 0).all()


@pytest.mark.parametrize("name", ALL)
def test_one_particle_with_all_the_weight(name):
    weight = torch.zeros(6, 4)
    weight[torch.arange(4) + 1, torch.arange(4)] = 1
    assert (SCHEMES[name](weight) == torch.arange(1, 5)).all()
    assert (SCHEMES[name](torch.ones(1, 4)) == 0).all()


@pytest.mark.parametrize("name", ALL)
def test_ancestors_depend_on_the_seed_alone(name):
    weight = weights(5, 40)
    torch.manual_seed(3)
    first = SCHEMES[name](weight)
    assert first.dtype == torch.int64
    torch.manual_seed(3)
    assert torch.equal(first, SCHEMES[name](weight))
    assert not torch.equal(first, SCHEMES[name](weight))


class TestResample:
    def test_each_datum_has_its_own_sample_size(self):
        """Effective sample sizes 4, 2, 1 and 3 of 4, and a threshold of 5/8, so below 2.5."""
        weight = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]], dtype=torch.float64).T
        log_weight = (weight / weight.sum(0)).log()
        out = resample(log_weight, multinomial, 5 / 8)
        assert out.done.tolist() == [False, True, True, False]
        own = torch.arange(4)
        for b in (0, 3):
            assert torch.equal(out.ancestors[:, b], own)
            assert torch.equal(out.log_weight[:, b], log_weight[:, b])
        for b in (1, 2):
            assert (out.ancestors[:, b] < 3 - b).all()
            torch.testing.assert_close(out.log_weight[:, b].exp(), torch.full((4,), 0.25, dtype=torch.float64))

    def test_threshold_zero_neither_resamples_nor_draws(self):
        before = torch.get_rng_state()
        log_weight = torch.tensor([[0.0], [-math.inf]])
        out = resample(log_weight, multinomial, 0)
        assert torch.equal(torch.get_rng_state(), before)
        assert not out.done.any()
        assert torch.equal(out.log_weight, log_weight)
        assert out.ancestors.tolist() == [[0], [1]]

    def test_threshold_one_always_resamples(self):
        out = resample(torch.full((3, 500), -math.log(3)), multinomial, 1)
        assert out.done.all()
        assert not (out.ancestors == torch.arange(3).unsqueeze(-1)).all()

    @pytest.mark.parametrize("name", ALL)
    @pytest.mark.parametrize("threshold", [0, 0.6, 1])
    def test_datum_without_weight_is_not_resampled(self, name, threshold):
        log_weight = torch.tensor([[0.0, -math.inf, math.nan], [-math.inf, -math.inf, 0.0]])
        out = resample(log_weight, SCHEMES[name], threshold)
        assert out.done.tolist() == [threshold > 0, False, False]
        assert out.log_weight[:, 1].tolist() == [-math.inf] * 2
        assert out.ancestors[:, 1:].tolist() == [[0, 0], [1, 1]]

    def test_gradient_passes_where_not_resampled(self):
        logits = torch.tensor([[0.0, 0.0], [0.1, 9.0]], requires_grad=True)
        out = resample(logits.log_softmax(0), systematic, 0.9)
        assert out.done.tolist() == [False, True]
        out.log_weight[0].sum().backward()
        assert (logits.grad[:, 0] != 0).all()
        assert (logits.grad[:, 1] == 0).all()

    @pytest.mark.parametrize("name", ALL)
    def test_no_host_reads(self, name):
        log_weight = weights(4, 3).log()
        with NoHostReads():
            resample(log_weight, SCHEMES[name], 0.5)

    def test_on_the_device_under_test(self, device):
        out = resample(weights(4, 3).float().log().to(device), systematic, 0.5)
        assert all(field.device.type == device.type for field in out)


def test_schemes_by_name():
    assert scheme("systematic") is systematic
    assert scheme(multinomial) is multinomial
    with pytest.raises(ValueError, match="expected resampling in .*'multinomial'.* got 'branching'"):
        scheme("branching")


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan])
def test_threshold_out_of_range(threshold):
    with pytest.raises(ValueError, match="expected a threshold from 0 .* to 1"):
        check_threshold(threshold)
