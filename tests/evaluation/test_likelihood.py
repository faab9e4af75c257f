# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_sqair.evaluation import evaluate_likelihood

SHAPE = (3, 7, 1, 2, 2)  # T, B, C, H, W
PIXELS = 12  # of a sequence


def model(frames: Tensor) -> None:
    """One brightness z ~ N(0, 1) for each sequence; every pixel is N(z, 1)."""
    with pyro.plate("sequences", frames.shape[1]):
        z = pyro.sample("z", dist.Normal(frames.new_zeros(()), 1.0))
        image = frames.transpose(0, 1).flatten(1)
        pyro.sample("image", dist.Normal(z.unsqueeze(-1), 1.0).expand((*z.shape, PIXELS)).to_event(1), obs=image)


def posterior(frames: Tensor, spread: float = 1.0) -> None:
    """The exact posterior; its standard deviation times `spread`."""
    total = frames.transpose(0, 1).flatten(1).sum(-1)
    with pyro.plate("sequences", frames.shape[1]):
        pyro.sample("z", dist.Normal(total / (1 + PIXELS), spread * (1 + PIXELS) ** -0.5))


def prior(frames: Tensor) -> None:
    with pyro.plate("sequences", frames.shape[1]):
        pyro.sample("z", dist.Normal(frames.new_zeros(()), 1.0).expand([frames.shape[1]]))


def log_evidence(frames: Tensor) -> Tensor:
    """log p(x) of each sequence, in closed form: the pixels are jointly normal."""
    covariance = torch.eye(PIXELS) + torch.ones(PIXELS, PIXELS)
    return dist.MultivariateNormal(torch.zeros(PIXELS), covariance).log_prob(frames.transpose(0, 1).flatten(1))


@pytest.mark.parametrize("chunks", [(32, 10), (3, 2), (7, 1)])
def test_with_the_exact_posterior_every_bound_is_log_p(chunks: tuple[int, int]) -> None:
    frames = torch.rand(SHAPE)
    exact = log_evidence(frames)
    result = evaluate_likelihood(model, posterior, frames, (1, 5), *chunks)
    for estimate in (result.elbo, result.iwae[1], result.iwae[5]):
        assert estimate.mean == pytest.approx(exact.mean().item(), abs=1e-4)
        assert estimate.stderr == pytest.approx(exact.std().item() / math.sqrt(7), abs=1e-4)
        assert estimate.per_frame == estimate.mean / 3
    assert result.reconstruction.mean - result.kl.mean == pytest.approx(result.elbo.mean, abs=1e-4)
    assert (result.sequences, result.frames) == (7, 3)


def test_parts_with_the_prior_as_guide() -> None:
    frames = torch.rand(SHAPE)
    result = evaluate_likelihood(model, prior, frames, (2000,), chunk_particles=2000)
    assert result.kl.mean == pytest.approx(0.0, abs=1e-3)
    # E over z ~ N(0, 1) of log N(x; z, 1) is -(x^2 + 1) / 2 - log(2 pi) / 2 for each pixel.
    exact = (-(frames**2 + 1) / 2 - math.log(2 * math.pi) / 2).sum((0, 2, 3, 4)).mean().item()
    # Of one particle it deviates by at most 12 sqrt(1/2 + mean(x)^2) < 15; four errors of 7 x 2000 are 0.5.
    assert result.reconstruction.mean == pytest.approx(exact, abs=0.5)
    assert result.elbo.mean < result.iwae[2000].mean - 1
    assert result.iwae[2000].mean == pytest.approx(log_evidence(frames).mean().item(), abs=0.1)


def test_memory_is_bounded() -> None:
    sizes = set()

    def spying_guide(frames: Tensor) -> None:
        with pyro.plate("sequences", frames.shape[1]):
            z = pyro.sample("z", dist.Normal(frames.new_zeros(()), 1.0).expand([frames.shape[1]]))
        sizes.add(z.numel())

    evaluate_likelihood(model, spying_guide, torch.rand(SHAPE), (5, 9), chunk_sequences=3, chunk_particles=2)
    assert max(sizes) == 6


def test_summary_is_flat_and_goes_into_json() -> None:
    result = evaluate_likelihood(model, posterior, torch.rand(SHAPE)[:, :1], (2,))
    summary = json.loads(json.dumps(result.summary(), allow_nan=False))
    names = {"iwae_2", "elbo", "reconstruction", "kl"}
    ends = ("", "_stderr", "_per_frame")
    assert set(summary) == {"sequences", "frames"} | {name + end for name in names for end in ends}
    assert summary["iwae_2_stderr"] is None
    assert summary["iwae_2"] == result.iwae[2].mean


@pytest.mark.parametrize(
    ("shape", "particles", "chunks"),
    [
        ((3, 7, 2, 2), (5,), (1, 1)),
        ((0, 7, 1, 2, 2), (5,), (1, 1)),
        (SHAPE, (0,), (1, 1)),
        (SHAPE, (5,), (0, 1)),
        (SHAPE, (5,), (1, 0)),
    ],
)
def test_wrong_arguments(shape: tuple[int, ...], particles: tuple[int, ...], chunks: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"expected (frames of shape|num_particles)"):
        evaluate_likelihood(model, posterior, torch.rand(shape), particles, *chunks)
