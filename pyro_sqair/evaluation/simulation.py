# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Imagined frames against the true ones: their likelihood, and the errors of the objects' positions."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.distributions import Normal

from pyro_sqair.scene.objects import Objects
from pyro_sqair.scene.spatial import boxes
from pyro_sqair.tracking.rollout import Rollout


class SimulationLikelihood(NamedTuple):
    """Log-likelihood of the imagined frames, in nats per frame (Stanić & Schmidhuber 2019, Fig. 4).

    Attributes:
        data: of all pixels.
        relational: of the pixels of colliding objects; 0 in frames without a collision.
        colliding: `relational` averaged only over the frames with a collision; None if there are none.
    """

    data: float
    relational: float
    colliding: float | None


def simulation_likelihood(
    image: Tensor, frames: Tensor, collisions: Tensor, seen: int, std: float
) -> SimulationLikelihood:
    """log Normal(x_t; y_t, std) of the frames after the first `seen`, averaged over frames and sequences.

    Args:
        image: imagined means y, shape [T, B, C, H, W]; see :func:`pyro_sqair.tracking.rollout.predict`.
        frames: true frames x, the same shape.
        collisions: pixels of objects that collide in this frame, bool [T, B, H, W].
        seen: number of frames shown to the guide.
        std: standard deviation of a pixel, as in the renderer.

    Raises:
        ValueError: if the shapes do not fit, or no frame is left to imagine.
    """
    if image.shape != frames.shape or image.dim() != 5:
        raise ValueError(f"expected frames of shape {list(image.shape)} as the image has, got {list(frames.shape)}")
    expected = (*frames.shape[:2], *frames.shape[3:])
    if collisions.shape != expected:
        raise ValueError(f"expected collisions of shape {list(expected)}, got {list(collisions.shape)}")
    if not 0 <= seen < len(frames):
        raise ValueError(f"expected seen from 0 to {len(frames) - 1}, the number of frames less one, got {seen}")
    log_prob = Normal(image[seen:].double(), std).log_prob(frames[seen:].double()).sum(2)  # [t, B, H, W]
    relational = (log_prob * collisions[seen:]).sum((-2, -1))
    has_collision = collisions[seen:].flatten(2).any(-1)
    return SimulationLikelihood(
        data=log_prob.sum((-2, -1)).mean().item(),
        relational=relational.mean().item(),
        colliding=relational[has_collision].mean().item() if has_collision.any() else None,
    )


class RolloutError(NamedTuple):
    """Distances between imagined and true objects.

    Attributes:
        per_frame: mean distance in pixels, for each imagined frame.
        overall: mean of `per_frame`.
        followed: number of objects that were followed.
        lost: share of them that are absent in the last imagined frame; they remain at their last position.
    """

    per_frame: list[float]
    overall: float
    followed: int
    lost: float


def rollout_error(
    rollouts: Rollout | Sequence[Rollout], boxes_true: Tensor, present_true: Tensor, seen: int
) -> RolloutError:
    """Follows the objects inferred in the last frame seen, by their ids, through the imagined frames.

    In the last frame seen, inferred objects are matched with true ones so that the sum of distances is least. The error
    is the distance between the displacements of both since that frame, so that a constant offset of a box does not
    count. True centres outside the frame are moved to the nearest point on its edge, since the centre of an inferred
    box cannot lie outside. True objects are ignored in the frames where they are absent.

    With several rollouts, the mean of their displacements is compared. It is closer to the truth than a single sample,
    which differs from it by the randomness of the prior.

    Args:
        rollouts: inferred in the first frames, imagined after them; several must agree in the frames seen.
        boxes_true: left, top, width, height in pixels, shape [T, B, M, 4].
        present_true: bool, shape [T, B, M].
        seen: number of frames shown to the guide, at least 1.

    Raises:
        ValueError: if the shapes do not fit, no frame is left to imagine, the rollouts differ in the frames seen, or in
            some frame there is no object to follow.
    """
    futures = [rollouts] if isinstance(rollouts, Rollout) else list(rollouts)
    if not futures:
        raise ValueError("expected at least one rollout, got none")
    first = futures[0].objects
    steps, batch, _ = first.pres.shape
    if boxes_true.shape[:2] != (steps, batch) or boxes_true.shape[:-1] != present_true.shape:
        raise ValueError(
            f"expected boxes_true [{steps}, {batch}, M, 4] and present_true [{steps}, {batch}, M], "
            f"got {list(boxes_true.shape)} and {list(present_true.shape)}"
        )
    if not 1 <= seen < steps:
        raise ValueError(f"expected seen from 1 to {steps - 1}, the number of frames less one, got {seen}")
    for field in ("pres", "where", "id"):
        start = getattr(first, field)[:seen]
        if not all(torch.equal(getattr(future.objects, field)[:seen], start) for future in futures):
            raise ValueError(f"expected rollouts with the same objects in the frames seen, got a different {field}")

    height, width = futures[0].image.shape[-2:]
    edge = torch.tensor([width, height], dtype=torch.float64)
    true = _centres(boxes_true).clamp(min=0.0).minimum(edge)
    inferred = _centres(boxes(first.where, (height, width)))
    there, last = present_true.cpu(), seen - 1
    present = (first.pres[last] > 0.5).cpu()
    pairs: list[tuple[int, int, int]] = []  # sequence, true object, slot in the last frame seen
    for b in range(batch):
        rows, columns = there[last, b].nonzero().flatten(), present[b].nonzero().flatten()
        matched = linear_sum_assignment(torch.cdist(true[last, b, rows], inferred[last, b, columns]).numpy())
        pairs += [(b, int(rows[r]), int(columns[c])) for r, c in zip(*matched, strict=True)]
    if not pairs:
        raise ValueError("expected objects to follow, got none in the last frame seen")
    b, m, n = np.array(pairs).T
    known = there[seen:, b, m]
    if not known.any(1).all():
        raise ValueError("expected some of the objects to follow to be present in every frame, got none in some")

    displacements, lost = zip(*(_follow(future.objects, seen, (height, width)) for future in futures), strict=True)
    displacement = torch.stack(displacements).mean(0)[:, b, n]
    error = (displacement - (true[seen:, b, m] - true[last, b, m])).norm(dim=-1)
    per_frame = (error * known).sum(1) / known.sum(1)
    share_lost = torch.stack(lost)[:, b, n].double().mean().item()
    return RolloutError(per_frame.tolist(), per_frame.mean().item(), len(pairs), share_lost)


def _follow(objects: Objects, seen: int, frame_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Follows the objects of the last frame seen by their ids.

    Returns:
        Their displacements in pixels in each later frame, [T - seen, B, N, 2], and whether they are absent in the last
        frame, [B, N].
    """
    centres = _centres(boxes(objects.where, frame_size))
    ids = torch.where(objects.pres > 0.5, objects.id, -1).cpu()
    same = ids[seen - 1].unsqueeze(-1) == ids[seen:].unsqueeze(-2)  # [T - seen, B, N, N]
    found = same.any(-1, keepdim=True)
    now = centres[seen:].take_along_dim(same.int().argmax(-1, keepdim=True), -2)
    place, path = centres[seen - 1], []
    for t in range(len(now)):
        place = torch.where(found[t], now[t], place)
        path.append(place - centres[seen - 1])
    return torch.stack(path), ~found[-1].squeeze(-1)


def _centres(box: Tensor) -> Tensor:
    """Centres (x, y) in pixels, float64 on the CPU."""
    return (box[..., :2] + box[..., 2:] / 2).double().cpu()
