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
    """A brightness z ~ N(0, 1) for each sequence; every pixel is N(z, 1)."""
    with pyro.plate("sequences", frames.shape[1]):
        z = pyro.sample("z", dist.Normal(frames.new_zeros(()), 1.0))
        image = frames.transpose(0, 1).flatten(1)
        pyro.sample("image", dist.Normal(z.unsqueeze(-1), 1.0).expand((*z.shape, PIXELS)).to_event(1), obs=image)


def posterior(frames: Tensor) -> None:
    """The exact posterior."""
    total = frames.transpose(0, 1).flatten(1).sum(-1)
    with pyro.plate("sequences", frames.shape[1]):
        pyro.sample("z", dist.Normal(total / (1 + PIXELS), (1 + PIXELS) ** -0.5))


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
    # One particle has a standard deviation of at most 12 sqrt(1/2 + mean(x)^2) < 15; four standard errors of
    # 7 x 2000 particles are 0.5.
    assert result.reconstruction.mean == pytest.approx(exact, abs=0.5)
    assert result.elbo.mean < result.iwae[2000].mean - 1
    assert result.iwae[2000].mean == pytest.approx(log_evidence(frames).mean().item(), abs=0.1)


def test_bounds_of_fewer_particles_average_groups_of_the_same_ones() -> None:
    """Against the weights of the 7 drawn particles: 5, 3, 2 and 1 of them make 1, 2, 3 and 7 complete groups."""
    frames, draws = torch.rand(SHAPE, dtype=torch.float64), []

    def recording_prior(frames: Tensor) -> None:
        with pyro.plate("sequences", 7):
            draws.append(pyro.sample("z", dist.Normal(frames.new_zeros(7), 1.0)))

    result = evaluate_likelihood(model, recording_prior, frames, (5, 3, 2, 1, 7), chunk_particles=4)
    z = torch.cat(draws[5:])  # after the check of the programs and a run that finds the plates
    log_weight = dist.Normal(z[..., None], 1.0).log_prob(frames.transpose(0, 1).flatten(1)).sum(-1)
    for k, starts in ((5, [0]), (3, [0, 3]), (2, [0, 2, 4]), (1, range(7)), (7, [0])):
        exact = torch.stack([log_weight[i : i + k].exp().mean(0).log() for i in starts]).mean()
        assert result.iwae[k].mean == pytest.approx(exact.item(), abs=1e-10)
    assert result.elbo.mean == pytest.approx(log_weight.mean().item(), abs=1e-10)


def test_one_pass_over_the_particles_in_bounded_memory(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = []

    def spying_guide(frames: Tensor) -> None:
        with pyro.plate("sequences", frames.shape[1]):
            z = pyro.sample("z", dist.Normal(frames.new_zeros(()), 1.0).expand([frames.shape[1]]))
        sizes.append(z.numel())

    evaluate_likelihood(model, spying_guide, torch.rand(SHAPE), (5, 9), chunk_sequences=3, chunk_particles=2)
    assert max(sizes) == 6
    # A trial run of one particle in each chunk of sequences finds the plates. In the first chunk, five more check the
    # programs: a trial run, two vectorised particles, and each of these alone.
    assert sum(sizes) == 7 * (9 + 1) + 3 * 5
    assert capsys.readouterr().err == ""


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate_likelihood(model, posterior, torch.rand(SHAPE), (2,), chunk_sequences=3, progress=True)
    shown = capsys.readouterr()
    assert shown.out == "" and "likelihood" in shown.err and "3/3" in shown.err


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
