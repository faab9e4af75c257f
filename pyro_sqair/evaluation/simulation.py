# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""How well a model simulates: what it imagines after the frames that it has seen, against what really happens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pyro_sqair.scene.spatial import boxes
from pyro_sqair.tracking.rollout import Rollout


class SimulationLikelihood(NamedTuple):
    """Log-likelihood of the imagined frames, in nats (Stanić & Schmidhuber 2019, Fig. 4).

    Attributes:
        data: a frame, over all its pixels.
        relational: a frame, over the pixels of objects that collide in it; frames without collisions give 0.
        colliding: the same, averaged over the frames with collisions only; None if there are none.
    """

    data: float
    relational: float
    colliding: float | None


def simulation_likelihood(
    image: Tensor, frames: Tensor, collisions: Tensor, seen: int, std: float
) -> SimulationLikelihood:
    """log Normal(x_t; y_t, std) of the frames after the last one seen, averaged over frames and sequences.

    Args:
        image: what the model imagines, y, shape [T, B, C, H, W]; see :func:`pyro_sqair.tracking.rollout.predict`.
        frames: what happens, x, the same shape.
        collisions: pixels of objects that collide in this very frame, bool [T, B, H, W].
        seen: how many frames the guide saw.
        std: the standard deviation of a pixel, the renderer's.

    Raises:
        ValueError: if the shapes do not fit, or no frame was imagined.
    """
    if image.shape != frames.shape or image.dim() != 5:
        raise ValueError(f"expected frames of shape {list(image.shape)} as the image has, got {list(frames.shape)}")
    expected = (*frames.shape[:2], *frames.shape[3:])
    if collisions.shape != expected:
        raise ValueError(f"expected collisions of shape {list(expected)}, got {list(collisions.shape)}")
    if not 0 <= seen < len(frames):
        raise ValueError(f"expected seen from 0 to {len(frames) - 1}, the frames less one, got {seen}")
    error = (frames[seen:] - image[seen:]).double() / std
    log_prob = -0.5 * error.square() - math.log(std) - 0.5 * math.log(2 * math.pi)
    log_prob = log_prob.sum(2)  # over channels: [t, B, H, W]
    involved = (log_prob * collisions[seen:]).sum((-2, -1))
    happens = collisions[seen:].flatten(2).any(-1)
    return SimulationLikelihood(
        data=log_prob.sum((-2, -1)).mean().item(),
        relational=involved.mean().item(),
        colliding=involved[happens].mean().item() if happens.any() else None,
    )


class RolloutError(NamedTuple):
    """How far imagined objects are from where they should be.

    Attributes:
        per_frame: mean distance in pixels, for each imagined frame.
        overall: their mean.
        followed: how many objects were followed.
        lost: share of them that the model lets disappear before the end; they count where they last were.
    """

    per_frame: list[float]
    overall: float
    followed: int
    lost: float


def rollout_error(
    rollouts: Rollout | Sequence[Rollout], boxes_true: Tensor, present_true: Tensor, seen: int
) -> RolloutError:
    """Follows the objects that were inferred in the last frame seen through those imagined after it.

    Objects are paired with true ones in that frame, so that the sum of distances is least, and followed by their ids.
    What is compared is how far they have moved since then: a box may well sit beside its object, and go on to do so.
    A true centre outside the frame counts as the nearest place on its edge, for no box can have its centre further out.
    Where ``present_true`` says that a true object is absent, nobody knows where it is, and nothing is judged.

    Of several futures it is their mean that is compared: where an object is on average. A single one is further off
    than that, by what it leaves to chance, even if the model knows all that can be known.

    Args:
        rollouts: inferred in the first frames, imagined from there on; several agree in the first.
        boxes_true: left, top, width, height in pixels, shape [T, B, M, 4].
        present_true: shape [T, B, M].
        seen: how many frames the guide saw, at least 1.

    Raises:
        ValueError: if the shapes do not fit, no frame was imagined, futures do not begin alike, or in some frame there
            was no object to follow.
    """
    futures = [rollouts] if isinstance(rollouts, Rollout) else list(rollouts)
    if not futures:
        raise ValueError("expected at least one rollout, got none")
    steps, batch, _ = futures[0].objects.pres.shape
    if boxes_true.shape[:2] != (steps, batch) or boxes_true.shape[:-1] != present_true.shape:
        raise ValueError(
            f"expected boxes_true [{steps}, {batch}, M, 4] and present_true [{steps}, {batch}, M], "
            f"got {list(boxes_true.shape)} and {list(present_true.shape)}"
        )
    if not 1 <= seen < steps:
        raise ValueError(f"expected seen from 1 to {steps - 1}, the frames less one, got {seen}")
    height, width = futures[0].image.shape[-2:]
    paths = [_Paths(future, seen) for future in futures]
    if not all(p.begins_as(paths[0]) for p in paths):
        raise ValueError("expected futures that begin with the same objects in the same places, got others")
    edge = torch.tensor([width, height], dtype=torch.float64)
    true = _centres(boxes_true).clamp(min=0.0).minimum(edge).numpy()
    there = present_true.cpu().numpy()

    errors, lost = [], 0
    last = seen - 1
    for b in range(batch):
        rows, columns = np.flatnonzero(there[last, b]), np.flatnonzero(paths[0].present[last, b])
        distance = np.linalg.norm(true[last, b, rows][:, None] - paths[0].centres[last, b, columns][None], axis=-1)
        for r, c in zip(*linear_sum_assignment(distance), strict=True):
            imagined, ends = zip(*(path.follow(b, columns[c]) for path in paths), strict=True)
            moved = true[seen:, b, rows[r]] - true[last, b, rows[r]]
            error = np.linalg.norm(np.mean(imagined, 0) - moved, axis=-1)
            errors.append(np.where(there[seen:, b, rows[r]], error, np.nan))
            lost += sum(ends)
    if not errors:
        raise ValueError("expected objects to follow, got none in the last frame seen")
    known = ~np.isnan(errors)
    if not known.any(0).all():
        raise ValueError("expected some of the objects to follow to be present in every frame, got none in some")
    per_frame = np.nanmean(errors, 0)
    return RolloutError(per_frame.tolist(), float(per_frame.mean()), len(errors), lost / len(errors) / len(futures))


class _Paths:
    """Where the objects of a rollout go."""

    def __init__(self, rollout: Rollout, seen: int) -> None:
        objects = rollout.objects
        height, width = rollout.image.shape[-2:]
        self.centres = _centres(boxes(objects.where, (height, width))).numpy()
        self.present = (objects.pres > 0.5).cpu().numpy()
        self.names = objects.id.cpu().numpy()
        self.last = seen - 1

    def begins_as(self, other: _Paths) -> bool:
        """Whether both have the same objects in the same places, in the frames seen."""
        seen = slice(self.last + 1)
        ours, theirs = ((p.names[seen], p.present[seen], p.centres[seen]) for p in (self, other))
        return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))

    def follow(self, b: int, slot: int) -> tuple[np.ndarray, bool]:
        """How far the object in a slot of the last frame seen has moved in each later one, and if it is lost."""
        name, start = self.names[self.last, b, slot], self.centres[self.last, b, slot]
        place, path, lost = start, [], False
        for t in range(self.last + 1, len(self.names)):
            found = np.flatnonzero(self.present[t, b] & (self.names[t, b] == name))
            lost = not len(found)
            place = place if lost else self.centres[t, b, found[0]]
            path.append(place - start)
        return np.array(path), lost


def _centres(box: Tensor) -> Tensor:
    """Centres (x, y) in pixels, float64 on the CPU."""
    return (box[..., :2] + box[..., 2:] / 2).double().cpu()
