# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Bounds on the likelihood of held-out video, in bounded memory."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_sqair.infer.bounds import elbo_terms, iwae_bound


class Estimate(NamedTuple):
    """A mean over sequences, in nats.

    Attributes:
        mean: per sequence.
        stderr: the standard error of that mean; None for a single sequence, whose spread is unknown.
        per_frame: the mean divided by the number of frames.
    """

    mean: float
    stderr: float | None
    per_frame: float


class Likelihood(NamedTuple):
    """What a model and its guide say about a set of sequences.

    Attributes:
        iwae: for each number of particles K, the importance-weighted bound (Burda et al. 2016) on log p(x).
        elbo: the bound with K = 1.
        reconstruction: E_q log p(x | z).
        kl: E_q [log q(z | x) - log p(z)]; reconstruction - kl = elbo.
        sequences: how many were averaged over.
        frames: the length of each.
    """

    iwae: dict[int, Estimate]
    elbo: Estimate
    reconstruction: Estimate
    kl: Estimate
    sequences: int
    frames: int

    def summary(self) -> dict[str, float | None]:
        """All numbers under flat names, such as `elbo`, `elbo_stderr`, `elbo_per_frame`, for a JSON file."""
        named = {f"iwae_{k}": estimate for k, estimate in self.iwae.items()}
        named |= {"elbo": self.elbo, "reconstruction": self.reconstruction, "kl": self.kl}
        flat: dict[str, float | None] = {"sequences": self.sequences, "frames": self.frames}
        for name, estimate in named.items():
            flat[name] = estimate.mean
            flat[f"{name}_stderr"] = estimate.stderr
            flat[f"{name}_per_frame"] = estimate.per_frame
        return flat


def evaluate_likelihood(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    frames: Tensor,
    num_particles: Sequence[int] = (5, 100),
    chunk_sequences: int = 32,
    chunk_particles: int = 10,
) -> Likelihood:
    """Estimates the IWAE bounds, the ELBO and its two parts.

    At most `chunk_sequences * chunk_particles` samples are held at a time. The random state is the caller's:
    set Pyro's seed before for numbers that repeat.

    Args:
        model: a program called with frames.
        guide: its guide.
        frames: pixels in [0, 1], shape [T, B, C, H, W].
        num_particles: the numbers K for which to estimate the IWAE bound; the ELBO is averaged over the
            smallest of them.
        chunk_sequences: sequences evaluated at once.
        chunk_particles: particles evaluated at once.

    Raises:
        ValueError: if the frames have another shape, or a number is below 1.
    """
    if frames.dim() != 5 or 0 in frames.shape:
        raise ValueError(f"expected frames of shape [T, B, C, H, W], none of them 0, got {list(frames.shape)}")
    if chunk_sequences < 1 or chunk_particles < 1 or min(num_particles, default=1) < 1:
        raise ValueError(
            "expected num_particles, chunk_sequences and chunk_particles of at least 1, "
            f"got {tuple(num_particles)}, {chunk_sequences} and {chunk_particles}"
        )
    bounds: dict[int, list[Tensor]] = {k: [] for k in num_particles}
    fewest = min(num_particles, default=1)
    terms = []
    for chunk in frames.split(chunk_sequences, dim=1):
        for k, parts in bounds.items():
            parts.append(iwae_bound(model, guide, chunk, num_particles=k, chunk=chunk_particles))
        terms.append(elbo_terms(model, guide, chunk, num_particles=fewest, chunk=chunk_particles))
    steps = frames.shape[0]
    return Likelihood(
        iwae={k: _estimate(parts, steps) for k, parts in bounds.items()},
        elbo=_estimate([term.elbo for term in terms], steps),
        reconstruction=_estimate([term.reconstruction for term in terms], steps),
        kl=_estimate([term.kl for term in terms], steps),
        sequences=frames.shape[1],
        frames=steps,
    )


def _estimate(parts: list[Tensor], steps: int) -> Estimate:
    """Averages per-sequence values, in double precision: they are thousands of nats, and differ by a few."""
    values = torch.cat(parts).double()
    mean = values.mean().item()
    stderr = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else None
    return Estimate(mean, stderr, mean / steps)
