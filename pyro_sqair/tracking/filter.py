# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Tracking objects frame by frame, in constant memory, for streams of any length."""

from __future__ import annotations

from typing import NamedTuple

import pyro
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pyro_sqair.infer import SMC, Particles
from pyro_sqair.infer.resampling import Scheme
from pyro_sqair.infer.smc import SEQUENCES, Step, sample_size
from pyro_sqair.infer.states import take
from pyro_sqair.scene.frames import check_frames, check_values
from pyro_sqair.scene.objects import Objects, State, stack_objects
from pyro_sqair.scene.program import Program
from pyro_sqair.scene.spatial import boxes, intersection_over_union
from pyro_sqair.tracking.rollout import Rollout


class Tracks(NamedTuple):
    """What is known after a frame; `*` is `[B]`, or nothing if the frame came without a batch dimension.

    `present`, `boxes`, `ids` and `image` are those of the particle shown, the others are of all particles.

    Attributes:
        present: which slots hold an object, bool, shape ``[*, N]``; present ones come first.
        boxes: left, top, width, height in pixels, shape ``[*, N, 4]``; a box may reach outside the frame, and is all
            zeros where there is no object.
        ids: who the object is, int64, shape ``[*, N]``; -1 where absent, never reused.
        presence: the probability that there is an object at this box: the weight of all particles with one that
            overlaps it, shape ``[*, N]``; 0 where absent.
        count_probability: the probabilities of 0 ... N objects, shape ``[*, N + 1]``.
        image: the rendered mean, shape ``[*, C, H, W]``.
        increment: log of the estimate of p(x_t | x_{1:t-1}), in nats, shape ``[*]``.
        log_evidence: that of all frames since the start, in nats, float64, shape ``[*]``.
        effective_sample_size: from 1 to K, shape ``[*]``.
    """

    present: Tensor
    boxes: Tensor
    ids: Tensor
    presence: Tensor
    count_probability: Tensor
    image: Tensor
    increment: Tensor
    log_evidence: Tensor
    effective_sample_size: Tensor


class _Names(NamedTuple):
    """By which names the objects of the particle shown go; each particle counts its ids by itself."""

    ids: Tensor  # int64 [B, N], the particle's own; -1 where absent
    names: Tensor  # int64 [B, N], what the user sees; -1 where absent
    next: Tensor  # int64 [B], the next new name


class _Past(NamedTuple):
    """All that is kept of the frames so far."""

    length: int
    particles: Particles
    best: Tensor  # int64 [B], the particle shown
    names: _Names
    log_evidence: Tensor  # float64 [B]
    has_batch: bool


class Filter:
    """Tracks the objects of video that arrives frame by frame, with a particle filter.

    Shown is the particle of the highest weight. Resampling copies good particles, so the one shown usually descends
    from the one shown before, and its objects keep their ids. Where it does not, the particle's objects of the frame
    before take over the ids of those shown then that they overlap most, one to one, so that a change of particles
    does not look like a change of objects.

    Nothing is kept but the particles of the last frame: memory and time for a frame do not depend on how many there
    have been. Weights are used as they are; call ``.eval()`` on programs that behave otherwise in training.

    Args:
        model: a generative program.
        guide: its inference program.
        num_particles: K.
        resampling: see :class:`pyro_sqair.infer.SMC`.
        threshold: see :class:`pyro_sqair.infer.SMC`.
        min_overlap: the intersection over union from which two boxes are taken to be of one object.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        num_particles: int = 100,
        resampling: str | Scheme = "systematic",
        threshold: float = 0.5,
        min_overlap: float = 0.3,
    ) -> None:
        if not 0 < min_overlap <= 1:
            raise ValueError(f"expected min_overlap above 0 and at most 1, got {min_overlap}")
        self._smc = SMC(model, guide, num_particles, resampling, threshold)
        self.model = model
        self.min_overlap = min_overlap
        self._past: _Past | None = None

    def reset(self) -> None:
        """Forgets all frames: the next one is the first of a new video, of any batch size."""
        self._past = None

    @torch.no_grad()
    def update(self, frame: Tensor) -> Tracks:
        """Takes the next frame in.

        Args:
            frame: shape ``[C, H, W]``, or ``[B, C, H, W]`` to track B videos at a time; values in [0, 1].

        Raises:
            ValueError: if the frame has another shape, dtype or device, or another batch size than the one before;
                if Pyro's validation is on, also for values that are not numbers in [0, 1].
        """
        batch, past = self._checked(frame), self._past
        before = self._smc.init(len(batch)) if past is None else past.particles
        t = 0 if past is None else past.length
        particles, step = self._smc.step(t, before, batch)
        assert particles.log_weight is not None
        best = particles.log_weight.argmax(0)
        shown: State = take(particles.model_state, best)
        names = _no_names(shown.objects) if past is None else self._renamed(past, step, best)
        names = _with_new(names, shown.objects)
        total = step.increment.double() if past is None else past.log_evidence + step.increment
        self._past = _Past(t + 1, particles, best, names, total, frame.dim() == 4)
        tracks = self._tracks(self._past, step.increment, shown)
        return tracks if frame.dim() == 4 else Tracks(*(field.squeeze(0) for field in tracks))

    @torch.no_grad()
    def predict(self, steps: int) -> Rollout:
        """One way in which the video may go on from the particle shown, drawn from the model.

        The filter is left as it is. New objects get new ids, which later frames may use for others.

        Args:
            steps: how many frames.

        Returns:
            Objects of shape ``[steps, *, N]`` and images of shape ``[steps, *, C, H, W]``.

        Raises:
            ValueError: if no frame has been seen, or `steps` is below 1.
        """
        past = self._past
        if past is None:
            raise ValueError("expected a frame to go on from, got none: call update first")
        if steps < 1:
            raise ValueError(f"expected steps of at least 1, got {steps}")
        state, names = take(past.particles.model_state, past.best), past.names
        objects, images = [], []
        with pyro.plate(SEQUENCES, past.particles.batch, dim=-1):
            for t in range(past.length, past.length + steps):
                state = self.model.step(t, state, None)
                names = _with_new(names, state.objects)
                assert state.image is not None
                objects.append(state.objects._replace(id=names.names))
                images.append(state.image)
        rollout = Rollout(stack_objects(objects), torch.stack(images))
        if past.has_batch:
            return rollout
        return Rollout(Objects(*(field.squeeze(1) for field in rollout.objects)), rollout.image.squeeze(1))

    def _checked(self, frame: Tensor) -> Tensor:
        """The frame as a batch, shape ``[B, C, H, W]``."""
        scene, like = self.model.scene, next(self.model.parameters(), None)
        size = f"{scene.channels}, {scene.image_size[0]}, {scene.image_size[1]}"
        if not isinstance(frame, Tensor) or frame.dim() not in (3, 4) or 0 in frame.shape:
            got = list(frame.shape) if isinstance(frame, Tensor) else type(frame).__name__
            raise ValueError(f"expected a frame of shape [{size}] or [B, {size}] as a torch.Tensor, got {got}")
        if tuple(frame.shape[-3:]) != (scene.channels, *scene.image_size):
            raise ValueError(f"expected a frame of shape [{size}] or [B, {size}], got {list(frame.shape)}")
        batch = frame if frame.dim() == 4 else frame.unsqueeze(0)
        check_frames(batch.unsqueeze(0), scene.channels, scene.image_size, like)
        if is_validation_enabled():
            check_values(batch)
        past = self._past
        if past is not None and (past.particles.batch, past.has_batch) != (len(batch), frame.dim() == 4):
            expected = [past.particles.batch] * past.has_batch + [scene.channels, *scene.image_size]
            raise ValueError(
                f"expected a frame of shape {expected} like the one before, got {list(frame.shape)}; "
                "call reset() before another video"
            )
        return batch

    def _renamed(self, past: _Past, step: Step, best: Tensor) -> _Names:
        """The names of the objects that the particle now shown had in the frame before."""
        assert step.resampling is not None
        parent = step.resampling.ancestors.gather(0, best.unsqueeze(0)).squeeze(0)  # [B]
        same = (parent == past.best).unsqueeze(-1)
        was_shown: Objects = take(past.particles.model_state.objects, past.best)
        had: Objects = take(past.particles.model_state.objects, parent)
        known = past.names
        taken = _one_to_one(self._overlap(had, was_shown), self.min_overlap)  # [B, N, N]
        names = torch.where(taken, known.names.unsqueeze(-2), -1).amax(-1)
        names, following = _numbered(names, had.id >= 0, known.next)
        return _Names(
            torch.where(same, known.ids, had.id),
            torch.where(same, known.names, names),
            torch.where(same.squeeze(-1), known.next, following),
        )

    def _overlap(self, first: Objects, second: Objects) -> Tensor:
        """Intersection over union of the present objects of two scenes, shape ``[*, N, N]``; 0 where absent."""
        size = self.model.scene.image_size
        overlap = intersection_over_union(
            boxes(first.where, size).unsqueeze(-2), boxes(second.where, size).unsqueeze(-3)
        )
        return overlap * first.pres.unsqueeze(-1) * second.pres.unsqueeze(-2)

    def _tracks(self, now: _Past, increment: Tensor, shown: State) -> Tracks:
        particles = now.particles
        assert particles.log_weight is not None
        assert shown.image is not None
        objects, weight = shown.objects, particles.log_weight.exp()
        everyone: Objects = particles.model_state.objects  # [K, B, N]
        here = self._overlap(objects, everyone).amax(-1) >= self.min_overlap  # [K, B, N]
        numbers = torch.arange(objects.pres.shape[-1] + 1, device=weight.device, dtype=weight.dtype)
        counted = (everyone.num_present.unsqueeze(-1) == numbers).to(weight.dtype)  # [K, B, N + 1]
        present = objects.pres > 0
        return Tracks(
            present=present,
            boxes=boxes(objects.where, self.model.scene.image_size) * objects.pres.unsqueeze(-1),
            ids=now.names.names,
            presence=(weight.unsqueeze(-1) * here).sum(0).clamp(max=1) * present,
            count_probability=(weight.unsqueeze(-1) * counted).sum(0),
            image=shown.image,
            increment=increment,
            log_evidence=now.log_evidence,
            effective_sample_size=sample_size(particles),
        )


def _no_names(objects: Objects) -> _Names:
    """Before the first frame."""
    nothing = torch.full_like(objects.id, -1)
    return _Names(nothing, nothing, torch.zeros_like(objects.id[..., 0]))


def _with_new(known: _Names, objects: Objects) -> _Names:
    """The names of a frame's objects: those they had in the frame before or, of new ones, the next free ones."""
    same = (objects.id.unsqueeze(-1) == known.ids.unsqueeze(-2)) & (objects.id >= 0).unsqueeze(-1)
    names = torch.where(same, known.names.unsqueeze(-2), -1).amax(-1)
    names, following = _numbered(names, objects.id >= 0, known.next)
    return _Names(objects.id, names, following)


def _numbered(names: Tensor, present: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
    """Gives the present objects that have no name yet the next ones, in order; names ``[B, N]``, next ``[B]``."""
    new = (present & (names < 0)).long()
    fresh = following.unsqueeze(-1) + new.cumsum(-1) - 1
    return torch.where(new > 0, fresh, names), following + new.sum(-1)


def _one_to_one(overlap: Tensor, least: float) -> Tensor:
    """Pairs rows with columns, best overlap first, each at most once: ``[B, N, N]`` to bool ``[B, N, N]``."""
    num = overlap.shape[-1]
    taken = torch.zeros_like(overlap, dtype=torch.bool)
    for _ in range(num):
        highest, place = overlap.flatten(-2).max(-1)
        row, column = place // num, place % num
        slots = torch.arange(num, device=overlap.device)
        in_row, in_column = slots == row.unsqueeze(-1), slots == column.unsqueeze(-1)
        pair = in_row.unsqueeze(-1) & in_column.unsqueeze(-2)
        taken = taken | (pair & (highest >= least)[..., None, None])
        overlap = overlap.masked_fill(in_row.unsqueeze(-1) | in_column.unsqueeze(-2), 0.0)
    return taken
