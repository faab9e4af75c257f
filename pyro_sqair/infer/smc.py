# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Sequential Monte Carlo for programs that step through time, independently for every datum of a batch.

At frame t, with V_{t-1,k} the normalised weights so far (1 / K after resampling), particle k is propagated by the
guide and gets the incremental weight alpha_{t,k} = p(x_t, z_t | past) / q(z_t | past, x_t). Then

    Z = prod_t sum_k V_{t-1,k} alpha_{t,k}

is an unbiased estimate of p(x_{1:T}) for every resampling scheme and threshold (Del Moral 2004).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import pyro
import torch
from pyro import poutine
from pyro.infer.util import is_validation_enabled
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_sqair.infer.bounds import effective_sample_size
from pyro_sqair.infer.log_weights import log_weights
from pyro_sqair.infer.particles import compare_particles
from pyro_sqair.infer.resampling import Resampled, Scheme, check_threshold, possible_data, resample, scheme
from pyro_sqair.infer.states import Ranks, ranks, spread, take

SEQUENCES = "sequences"


class Stepping(Protocol):
    """A program that steps through time. Model and guide have the same methods; each has its own state."""

    def init(self, batch: int) -> Any:
        """The state before the first frame, of tensors of shape [B, ...]. May draw."""

    def step(self, t: int, state: Any, frame: Any) -> Any:
        """Draws the latents of frame t (the model also observes the frame); returns the state, [K, B, ...]."""


class Particles(NamedTuple):
    """K weighted particles of B sequences, the only memory of past frames. See `states` for the types of states."""

    model_state: Any
    guide_state: Any
    log_weight: Tensor | None  # [K, B]  log V, normalised over particles; None before the first frame
    log_evidence: Tensor | None  # [B]  log Z of the frames so far
    batch: int
    model_ranks: Ranks
    guide_ranks: Ranks


class Step(NamedTuple):
    """Result of one frame."""

    increment: Tensor  # [B]  log of the estimate of p(x_t | x_{1:t-1})
    log_weight: Tensor  # [K, B]  log alpha_t
    prior_log_weight: Tensor  # [K, B]  log V_{t-1}, after resampling
    previous_log_weight: Tensor | None  # [K, B]  log V_{t-1}, before resampling; None at the first frame
    resampling: Resampled | None  # the resampling before this frame; None at the first
    score: Tensor | None  # [K, B]  log q of the draws that are not reparameterised; None if there are none


class _NoOtherPlates(Messenger):
    """Rejects plates inside a step: their dimension would be left of the particles'."""

    def _pyro_sample(self, msg: Any) -> None:
        for frame in msg["cond_indep_stack"]:
            if frame.dim is not None and frame.dim < -2:
                raise ValueError(
                    f"expected no plate inside a step but its own, {SEQUENCES!r}, got {frame.name!r} around site "
                    f"{msg['name']!r}. Make its dimension an event dimension by .to_event(...), or loop over it."
                )


class _Frame(Messenger):
    """Adds the index of the frame to the names of sites, which may be the same in every frame."""

    def __init__(self, t: int) -> None:
        super().__init__()
        self.t = t

    def _process_message(self, msg: Any) -> None:
        if msg["type"] == "sample":
            msg["name"] = f"t={self.t}: {msg['name']}"


class Filtered(NamedTuple):
    """Result of `SMC.run`."""

    log_evidence: Tensor  # [B]
    increments: Tensor  # [T, B], summing to `log_evidence`
    effective_sample_size: Tensor  # [T, B]  after each frame, before resampling; 0 where no particle is possible
    particles: Particles  # at the end


class SMC:
    """A particle filter for a model and a guide with `init` and `step`.

    Each step runs inside the plates "particles" (left of all others) and "sequences" (dim -1): first the guide, then
    the model, replayed on the guide's trace, with the frame observed. Before the next step, each datum whose effective
    sample size is low is resampled; the states of model and guide are reindexed together. Traces are not kept, so
    memory does not grow with time unless gradients are recorded.

    A state is the only memory of a program: tensors stored elsewhere are not reindexed. A tensor that first appears
    in a step has a particle dimension if its shape begins with [K, B], and is shared if it begins with [B].

    Args:
        model: has `init(batch)` and `step(t, state, frame)`.
        guide: has the same methods.
        num_particles: K.
        resampling: "multinomial", "stratified" or "systematic", or a function like those in `resampling`.
        threshold: resample if the effective sample size is below this fraction of K; 0 never, 1 always.

    Raises:
        ValueError: if a program lacks these methods, or an argument is out of range.
    """

    def __init__(
        self,
        model: Stepping,
        guide: Stepping,
        num_particles: int,
        resampling: str | Scheme = "systematic",
        threshold: float = 0.5,
    ) -> None:
        for name, program in (("model", model), ("guide", guide)):
            if not (callable(getattr(program, "init", None)) and callable(getattr(program, "step", None))):
                got = type(program).__name__
                raise ValueError(f"expected a {name} with methods init(batch) and step(t, state, frame), got {got}")
        self.model = model
        self.guide = guide
        if num_particles < 1:
            raise ValueError(f"expected num_particles >= 1, got {num_particles}")
        check_threshold(threshold)
        self.num_particles = num_particles
        self.scheme = scheme(resampling)
        self.threshold = threshold

    def init(self, batch: int) -> Particles:
        """The particles before the first frame, for a batch of B sequences."""
        found = []
        for program in (self.model, self.guide):
            # Without the particle plate, so that the number of dimensions excludes the particles'.
            with poutine.block(), torch.no_grad(), pyro.plate(SEQUENCES, batch, dim=-1):
                found.append(ranks(program.init(batch)))
        return Particles(None, None, None, None, batch, *found)

    def step(self, t: int, particles: Particles, frame: Any, with_score: bool = False) -> tuple[Particles, Step]:
        """Processes one frame: resamples where needed, propagates the particles and updates their weights.

        Args:
            t: the index of the frame, from 0.
            particles: from `init` or the previous step.
            frame: the observation, passed to both programs.
            with_score: whether to collect the score terms.

        Raises:
            ValueError: if the sites of model and guide do not match (see `log_weights`), a state has the wrong shape
                or, under Pyro's validation, every particle of some datum has weight zero.
        """
        resampled, starts = None, (None, None)
        if particles.log_weight is not None:
            resampled = resample(particles.log_weight, self.scheme, self.threshold)
            starts = (particles.model_state, particles.guide_state)
            if self.threshold > 0:
                starts = take(starts, resampled.ancestors)
        ends: list[Any] = []

        def stepping(program: Stepping, state: Any) -> Any:
            def run() -> None:
                with pyro.plate(SEQUENCES, particles.batch, dim=-1), _NoOtherPlates():
                    ends.append(program.step(t, program.init(particles.batch) if resampled is None else state, frame))

            return run

        weighed = log_weights(
            stepping(self.model, starts[0]),
            stepping(self.guide, starts[1]),
            num_particles=self.num_particles,
            max_plate_nesting=1,
            with_score=with_score,
            check_possible=True,
        )
        log_weight = weighed.log_weight
        first = torch.full_like(log_weight, -math.log(self.num_particles))
        prior = first if resampled is None else resampled.log_weight
        joint = prior + log_weight
        increment = joint.logsumexp(0)
        possible = possible_data(joint)
        if is_validation_enabled() and not possible.all():
            dead = [int(b) for b in (~possible).nonzero()[:8]]
            raise ValueError(
                f"expected a particle that can explain frame {t} of every sequence, got only weights of zero for "
                f"sequences {dead}. Use more particles, or a guide and a likelihood with broader tails."
            )
        total = increment if particles.log_evidence is None else particles.log_evidence + increment
        guide_end, model_end = ends
        sizes = (self.num_particles, particles.batch)
        after = particles._replace(
            model_state=spread(model_end, *sizes, particles.model_ranks),
            guide_state=spread(guide_end, *sizes, particles.guide_ranks),
            log_weight=torch.where(possible, joint.log_softmax(0), -torch.inf),
            log_evidence=total,
        )
        return after, Step(increment, log_weight, prior, particles.log_weight, resampled, weighed.score)

    def run(self, frames: Tensor) -> Filtered:
        """Filters all frames of a batch.

        Args:
            frames: shape [T, B, ...].

        Raises:
            ValueError: as in `step`, if there is no frame or no sequence or, under Pyro's validation, if
                `check_particles` finds that the programs cannot be vectorised.
        """
        check_time_first(frames)
        if is_validation_enabled():
            check_steps(self.model, self.guide, frames)
        particles = self.init(frames.shape[1])
        increments, sizes = [], []
        for t, frame in enumerate(frames):
            particles, step = self.step(t, particles, frame)
            increments.append(step.increment)
            sizes.append(sample_size(particles))
        assert particles.log_evidence is not None
        return Filtered(particles.log_evidence, torch.stack(increments), torch.stack(sizes), particles)


@torch.no_grad()
def smc_evidence(
    model: Stepping,
    guide: Stepping,
    frames: Tensor,
    *,
    num_particles: int,
    resampling: str | Scheme = "systematic",
    threshold: float = 0.5,
) -> Tensor:
    """log Z of every sequence: in expectation a bound on log p(x_{1:T}), usually far tighter than the IWAE bound.

    At threshold 0 this is the IWAE bound. Memory does not depend on T.

    Args:
        model, guide, num_particles, resampling, threshold: see `SMC`.
        frames: shape [T, B, ...].

    Returns:
        Shape [B], in nats.
    """
    return SMC(model, guide, num_particles, resampling, threshold).run(frames).log_evidence


def sample_size(particles: Particles) -> Tensor:
    """The effective sample size of each sequence, shape [B]; 0 where no particle is possible."""
    assert particles.log_weight is not None
    log_weight = particles.log_weight.detach()
    return torch.where(possible_data(log_weight), effective_sample_size(log_weight), 0.0)


def check_steps(model: Stepping, guide: Stepping, frames: Tensor) -> None:
    """`check_particles` on the first three frames: the third continues a state that a step has continued.

    Args:
        model, guide: see `SMC`.
        frames: shape [T, B, ...].

    Raises:
        ValueError: as `check_particles`; the site is named "t=1: z" if its name in the second frame is "z".
    """

    def unrolled(program: Stepping) -> Callable[[], None]:
        def run() -> None:
            with pyro.plate(SEQUENCES, frames.shape[1], dim=-1):
                state = program.init(frames.shape[1])
                for t, frame in enumerate(frames[:3]):
                    with _Frame(t), _NoOtherPlates():
                        state = program.step(t, state, frame)

        return run

    compare_particles(unrolled(model), unrolled(guide), (), {}, 1)


def check_time_first(frames: Tensor) -> None:
    """Checks the shape of frames.

    Raises:
        ValueError: if they are no tensor of shape [T, B, ...] with T and B at least 1.
    """
    if not isinstance(frames, Tensor) or frames.dim() < 2 or 0 in frames.shape[:2]:
        got = list(frames.shape) if isinstance(frames, Tensor) else type(frames).__name__
        raise ValueError(f"expected frames of shape [T, B, ...] with T and B >= 1, got {got}")
