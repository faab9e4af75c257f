# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Bounds on the likelihood of held-out video, in bounded memory."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor
from tqdm import tqdm

from pyro_sqair.infer.bounds import Bounds, unchecked_bounds
from pyro_sqair.infer.particles import check_particles


class Estimate(NamedTuple):
    """A mean over sequences, in nats.

    Attributes:
        mean: per sequence.
        stderr: the standard error of that mean; None for a single sequence.
        per_frame: the mean divided by the number of frames.
    """

    mean: float
    stderr: float | None
    per_frame: float


class Likelihood(NamedTuple):
    """Bounds on the log-likelihood of a set of sequences.

    Attributes:
        iwae: for each number of particles K, the importance-weighted bound (Burda et al. 2016) on log p(x).
        elbo: the bound with K = 1.
        reconstruction: E_q log p(x | z).
        kl: E_q [log q(z | x) - log p(z)]; reconstruction - kl = elbo.
        sequences: number of sequences.
        frames: number of frames of each sequence.
    """

    iwae: dict[int, Estimate]
    elbo: Estimate
    reconstruction: Estimate
    kl: Estimate
    sequences: int
    frames: int

    def summary(self) -> dict[str, float | None]:
        """All numbers under flat names, such as `elbo`, `elbo_stderr` and `elbo_per_frame`, for a JSON file."""
        named = {f"iwae_{k}": estimate for k, estimate in self.iwae.items()}
        named |= {"elbo": self.elbo, "reconstruction": self.reconstruction, "kl": self.kl}
        flat: dict[str, float | None] = {"sequences": self.sequences, "frames": self.frames}
        for name, estimate in named.items():
            flat[name] = estimate.mean
            flat[f"{name}_stderr"] = estimate.stderr
            flat[f"{name}_per_frame"] = estimate.per_frame
        return flat


@torch.no_grad()
def evaluate_likelihood(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    frames: Tensor,
    num_particles: Sequence[int] = (5, 100),
    chunk_sequences: int = 32,
    chunk_particles: int = 10,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> Likelihood:
    """Estimates the IWAE bounds, the ELBO and its two parts from the same particles, max(K) for each sequence.

    For a K below the maximum, the particles are divided into groups of K, and the bounds of all complete groups are
    averaged. At most `chunk_sequences * chunk_particles` samples are held at a time, plus three numbers for each
    particle. Set Pyro's seed before the call for reproducible numbers.

    Args:
        model: a program called with frames.
        guide: its guide.
        frames: pixels in [0, 1], shape [T, B, C, H, W].
        num_particles: the numbers K of particles of the IWAE bounds; if empty, the ELBO is that of one particle.
        chunk_sequences: number of sequences evaluated at a time.
        chunk_particles: number of particles evaluated at a time.
        device: of the programs, to which each chunk of sequences is moved; None for that of the frames.
        progress: whether to show a progress bar with the time left on stderr.

    Raises:
        ValueError: if the frames have another shape, or a number is below 1; under Pyro's validation, also if
            `check_particles` finds that the programs cannot be vectorised.
    """
    if frames.dim() != 5 or 0 in frames.shape:
        raise ValueError(f"expected frames of shape [T, B, C, H, W], all sizes at least 1, got {list(frames.shape)}")
    if chunk_sequences < 1 or chunk_particles < 1 or min(num_particles, default=1) < 1:
        raise ValueError(
            "expected num_particles, chunk_sequences and chunk_particles of at least 1, "
            f"got {tuple(num_particles)}, {chunk_sequences} and {chunk_particles}"
        )
    total = max(num_particles, default=1)
    chunks = frames.split(chunk_sequences, dim=1)
    device = device or frames.device
    if is_validation_enabled():
        check_particles(model, guide, chunks[0].to(device))
    bounds: list[Bounds] = [
        unchecked_bounds(model, guide, (chunk.to(device),), {}, total, chunk_particles)
        for chunk in tqdm(chunks, "likelihood", disable=not progress, unit="chunk", dynamic_ncols=True)
    ]
    steps = frames.shape[0]
    return Likelihood(
        iwae={k: _estimate([_grouped_bound(b.log_weight, k) for b in bounds], steps) for k in num_particles},
        elbo=_estimate([b.elbo.value for b in bounds], steps),
        reconstruction=_estimate([b.reconstruction.value for b in bounds], steps),
        kl=_estimate([b.kl.value for b in bounds], steps),
        sequences=frames.shape[1],
        frames=steps,
    )


def _grouped_bound(log_weight: Tensor, k: int) -> Tensor:
    """The mean over groups of the bound of k particles: log weights [K, B] to [B]."""
    groups = log_weight[: len(log_weight) // k * k].unflatten(0, (-1, k))
    return (groups.logsumexp(1) - math.log(k)).mean(0)


def _estimate(parts: list[Tensor], steps: int) -> Estimate:
    values = torch.cat(parts).double()  # thousands of nats, of which a few count
    mean = values.mean().item()
    stderr = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else None
    return Estimate(mean, stderr, mean / steps)
