# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Online tracking with a particle filter, frame by frame and in constant memory."""

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
from pyro_sqair.scene.objects import Objects, State, stack_objects
from pyro_sqair.scene.program import Program
from pyro_sqair.scene.spatial import boxes, intersection_over_union
from pyro_sqair.tracking.rollout import Rollout


class Tracks(NamedTuple):
    """The objects of a frame; ``*`` is ``[B]``, or empty if the frame came without a batch dimension.

    ``present``, ``boxes``, ``ids`` and ``image`` describe the particle shown, the other fields all particles.

    Attributes:
        present: which slots hold an object, bool, shape ``[*, N]``; present objects come first.
        boxes: (left, top, width, height) in pixels, shape ``[*, N, 4]``; a box may reach outside the frame, and is
            zero where there is no object.
        ids: the identity of each object, int64, shape ``[*, N]``; -1 where absent, never reused.
        presence: the probability of an object at this box, shape ``[*, N]``: the total weight of the particles with an
            object that overlaps it; 0 where absent.
        count_probability: the probabilities of 0 ... N objects, shape ``[*, N + 1]``.
        image: the rendered mean, shape ``[*, C, H, W]``.
        increment: estimate of log p(x_t | x_{1:t-1}), in nats, shape ``[*]``.
        log_evidence: estimate of log p(x_{1:t}), in nats, float64, shape ``[*]``.
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


class _FilterState(NamedTuple):
    """What the filter keeps between frames."""

    length: int  # the number of frames so far
    particles: Particles
    shown: Tensor  # int64 [B], the index of the particle shown
    track_ids: Tensor  # int64 [B, N], the ids that the user sees for its objects; -1 where absent
    next_track_id: Tensor  # int64 [B]
    log_evidence: Tensor  # float64 [B]
    has_batch: bool  # whether frames have a batch dimension


class Filter:
    """Tracks the objects of a video that arrives frame by frame, with a particle filter.

    :meth:`update` shows the particle with the highest weight. Usually it descends from the particle shown before, and
    its objects keep their ids. Otherwise the objects of its ancestor in the previous frame are matched one to one with
    those shown then, maximising the total intersection over union, and take over their ids. So a change of the particle
    shown does not change the ids of objects.

    Only the particles of the last frame are stored: memory and time per frame are constant. Parameters are used as they
    are; call ``.eval()`` on programs that behave differently in training.

    Args:
        model: a generative program.
        guide: its inference program.
        num_particles: K.
        resampling: see :class:`pyro_sqair.infer.SMC`.
        threshold: see :class:`pyro_sqair.infer.SMC`.
        min_overlap: the minimum intersection over union of two boxes of the same object.

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
        self._state: _FilterState | None = None

    def reset(self) -> None:
        """Starts a new video, of any batch size."""
        self._state = None

    @torch.no_grad()
    def update(self, frame: Tensor) -> Tracks:
        """Processes the next frame.

        Args:
            frame: shape ``[C, H, W]``, or ``[B, C, H, W]`` to track B videos at once; values in [0, 1].

        Raises:
            ValueError: if the frame has a wrong shape, dtype or device, or another batch size than the previous frame;
                if Pyro's validation is enabled, also for values that are not numbers in [0, 1].
        """
        batch, previous = self._check(frame), self._state
        particles = self._smc.init(len(batch)) if previous is None else previous.particles
        t = 0 if previous is None else previous.length
        particles, step = self._smc.step(t, particles, batch)
        assert particles.log_weight is not None
        shown = particles.log_weight.argmax(0)
        state: State = take(particles.model_state, shown)
        if previous is None:
            no_ids = torch.full_like(state.objects.id, -1)
            ids, next_id = _continue_ids(no_ids, no_ids, state.objects.id, torch.zeros_like(shown))
            log_evidence = step.increment.double()
        else:
            ids, next_id = self._track_ids(previous, step, shown, state.objects)
            log_evidence = previous.log_evidence + step.increment
        self._state = _FilterState(t + 1, particles, shown, ids, next_id, log_evidence, frame.dim() == 4)
        tracks = self._tracks(self._state, step.increment, state)
        return tracks if frame.dim() == 4 else Tracks(*(field.squeeze(0) for field in tracks))

    @torch.no_grad()
    def predict(self, steps: int) -> Rollout:
        """Samples one continuation of the particle shown from the model, without changing the filter.

        New objects get new ids, which later calls of :meth:`update` may assign to other objects.

        Args:
            steps: the number of frames.

        Returns:
            Objects of shape ``[steps, *, N]`` and images of shape ``[steps, *, C, H, W]``.

        Raises:
            ValueError: if no frame has been seen, or ``steps`` is below 1.
        """
        last = self._state
        if last is None:
            raise ValueError("expected a frame to continue from, got none: call update first")
        if steps < 1:
            raise ValueError(f"expected steps of at least 1, got {steps}")
        state: State = take(last.particles.model_state, last.shown)
        ids, next_id = last.track_ids, last.next_track_id
        objects, images = [], []
        with pyro.plate(SEQUENCES, last.particles.batch, dim=-1):
            for t in range(last.length, last.length + steps):
                previous, state = state, self.model.step(t, state, None)
                ids, next_id = _continue_ids(previous.objects.id, ids, state.objects.id, next_id)
                assert state.image is not None
                objects.append(state.objects._replace(id=ids))
                images.append(state.image)
        rollout = Rollout(stack_objects(objects), torch.stack(images))
        if last.has_batch:
            return rollout
        return Rollout(Objects(*(field.squeeze(1) for field in rollout.objects)), rollout.image.squeeze(1))

    def _check(self, frame: Tensor) -> Tensor:
        """Checks a frame and returns it as a batch, shape ``[B, C, H, W]``."""
        size = [self.model.scene.channels, *self.model.scene.image_size]
        is_tensor = isinstance(frame, Tensor)
        if not is_tensor or frame.dim() not in (3, 4) or 0 in frame.shape or list(frame.shape[-3:]) != size:
            got = list(frame.shape) if is_tensor else type(frame).__name__
            batch_size = f"[B, {', '.join(map(str, size))}]"
            raise ValueError(f"expected a frame of shape {size} or {batch_size} as a torch.Tensor, got {got}")
        batch = frame if frame.dim() == 4 else frame.unsqueeze(0)
        self.model.check(batch.unsqueeze(0), values=is_validation_enabled())
        last = self._state
        if last is not None and (last.particles.batch, last.has_batch) != (len(batch), frame.dim() == 4):
            expected = [last.particles.batch] * last.has_batch + size
            raise ValueError(
                f"expected a frame of shape {expected} like the previous frame, got {list(frame.shape)}; "
                "call reset() before another video"
            )
        return batch

    def _track_ids(self, previous: _FilterState, step: Step, shown: Tensor, objects: Objects) -> tuple[Tensor, Tensor]:
        """The track ids of the objects of the particle shown, and the next free one."""
        assert step.resampling is not None
        ancestor = step.resampling.ancestors.gather(0, shown.unsqueeze(0)).squeeze(0)  # [B]
        before: Objects = take(previous.particles.model_state.objects, ancestor)
        shown_before: Objects = take(previous.particles.model_state.objects, previous.shown)
        matched = _match(self._overlap(before, shown_before), self.min_overlap)  # [B, N, N]
        ids = torch.where(matched, previous.track_ids.unsqueeze(-2), -1).amax(-1)
        ids = torch.where((ancestor == previous.shown).unsqueeze(-1), previous.track_ids, ids)
        return _continue_ids(before.id, ids, objects.id, previous.next_track_id)

    def _overlap(self, first: Objects, second: Objects) -> Tensor:
        """Intersection over union of the objects of two scenes, shape ``[*, N, N]``; 0 where absent."""
        size = self.model.scene.image_size
        overlap = intersection_over_union(
            boxes(first.where, size).unsqueeze(-2), boxes(second.where, size).unsqueeze(-3)
        )
        return overlap * first.pres.unsqueeze(-1) * second.pres.unsqueeze(-2)

    def _tracks(self, state: _FilterState, increment: Tensor, shown: State) -> Tracks:
        particles, objects = state.particles, shown.objects
        assert particles.log_weight is not None
        assert shown.image is not None
        weight = particles.log_weight.exp().unsqueeze(-1)  # [K, B, 1]
        all_objects: Objects = particles.model_state.objects  # [K, B, N]
        agrees = self._overlap(objects, all_objects).amax(-1) >= self.min_overlap  # [K, B, N]
        counts = torch.arange(objects.pres.shape[-1] + 1, device=weight.device)
        has_count = all_objects.num_present.unsqueeze(-1) == counts  # [K, B, N + 1]
        present = objects.pres > 0
        return Tracks(
            present=present,
            boxes=boxes(objects.where, self.model.scene.image_size) * objects.pres.unsqueeze(-1),
            ids=state.track_ids,
            presence=(weight * agrees).sum(0).clamp(max=1) * present,
            count_probability=(weight * has_count).sum(0),
            image=shown.image,
            increment=increment,
            log_evidence=state.log_evidence,
            effective_sample_size=sample_size(particles),
        )


def _continue_ids(old: Tensor, old_track_ids: Tensor, new: Tensor, next_track_id: Tensor) -> tuple[Tensor, Tensor]:
    """Objects of a new frame keep the track ids of the old frame; the others get the next free ones, in order.

    Args:
        old: the ids of the objects within their particle in the old frame, shape ``[B, N]``.
        old_track_ids: their track ids, -1 where unknown, shape ``[B, N]``.
        new: the ids of the objects within the same particle in the new frame, -1 where absent, shape ``[B, N]``.
        next_track_id: the next free track id, shape ``[B]``.

    Returns:
        The track ids of the new frame, and the next free one.
    """
    present = new >= 0
    same = (new.unsqueeze(-1) == old.unsqueeze(-2)) & present.unsqueeze(-1)
    track_ids = torch.where(same, old_track_ids.unsqueeze(-2), -1).amax(-1)
    is_new = (present & (track_ids < 0)).long()
    new_track_ids = next_track_id.unsqueeze(-1) + is_new.cumsum(-1) - 1
    return torch.where(is_new > 0, new_track_ids, track_ids), next_track_id + is_new.sum(-1)


def _match(overlap: Tensor, min_overlap: float) -> Tensor:
    """Matches rows with columns one to one, maximising the total overlap: ``[B, N, N]`` to bool ``[B, N, N]``."""
    from scipy.optimize import linear_sum_assignment  # here, since it takes 60 MB that `pyro-sqair data` does not need

    overlap = torch.where(overlap >= min_overlap, overlap, 0.0)
    matched = torch.zeros_like(overlap, dtype=torch.bool)
    for b, matrix in enumerate(overlap.cpu().numpy()):
        rows, columns = linear_sum_assignment(matrix, maximize=True)
        matched[b, rows, columns] = True
    return matched & (overlap > 0)
