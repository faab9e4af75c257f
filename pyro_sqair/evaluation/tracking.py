# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Whether an object keeps its id, and whether its box is where the object is."""

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pyro_sqair.evaluation.counting import check_presence
from pyro_sqair.scene.objects import Objects
from pyro_sqair.scene.spatial import boxes, intersection_over_union


class IdStability(NamedTuple):
    """Of `counted` sequences, `kept` have the same set of ids in every frame; swaps within it go unnoticed."""

    kept: int
    counted: int

    @property
    def fraction(self) -> float | None:
        """The share of sequences that keep their ids; None if none could be judged."""
        return self.kept / self.counted if self.counted else None


class TrackingScore(NamedTuple):
    """How inferred boxes follow the true objects, summed over all frames and sequences.

    Attributes:
        switches: how often a true object is matched with another id than at its last match.
        matched: pairs of a true and an inferred box.
        missed: true objects in a frame without an inferred box.
        spurious: inferred objects in a frame without a true box.
        mean_iou: intersection over union, averaged over the matched pairs; None if there are none.
    """

    switches: int
    matched: int
    missed: int
    spurious: int
    mean_iou: float | None


def id_stability(objects: Objects, count: Tensor) -> IdStability:
    """Counts the sequences that show one id per object from the first frame to the last.

    Judged are the sequences whose number of objects is inferred exactly in every frame, and whose true number
    is constant and at least one: where objects come and go, the set of ids has to change.

    Args:
        objects: stacked over time, fields of shape [T, B, N, ...].
        count: true number of objects, shape [T, B].

    Raises:
        ValueError: if the shapes do not fit.
    """
    check_presence(objects.pres)
    if count.shape != objects.pres.shape[:2]:
        expected = list(objects.pres.shape[:2])
        raise ValueError(f"expected count of shape {expected} as the objects have, got {list(count.shape)}")
    present = objects.pres > 0.5
    judged = ((present.sum(-1) == count) & (count == count[0]) & (count > 0)).all(0)
    ids = torch.where(present, objects.id, -1).sort(-1).values  # a set, as a sorted list
    same = (ids == ids[0]).all(-1).all(0)
    return IdStability(int((judged & same).sum()), int(judged.sum()))


def identity_switches(
    objects: Objects,
    boxes_true: Tensor,
    ids_true: Tensor,
    frame_size: tuple[int, int],
    reach: float = 0.2,
) -> TrackingScore:
    """Matches inferred with true objects in every frame, and counts the changes of the matched id.

    The matching of a frame makes as many pairs as it can and, among those, the ones with the least sum of
    distances between the centres. A switch is the mismatch of Bernardin & Stiefelhagen (2008, "Evaluating
    multiple object tracking performance"); unlike theirs, the matching of a frame does not look at the one
    before.

    Args:
        objects: stacked over time, fields of shape [T, B, N, ...].
        boxes_true: left, top, width, height in pixels, shape [T, B, M, 4].
        ids_true: shape [T, B, M], -1 where absent.
        frame_size: height and width of a frame in pixels.
        reach: a pair is allowed if its centres are at most this far apart, as a fraction of the frame's
            shorter side.

    Raises:
        ValueError: if the shapes do not fit.
    """
    check_presence(objects.pres)
    steps, batch, _ = objects.pres.shape
    if ids_true.dim() != 3 or ids_true.shape[:2] != objects.pres.shape[:2]:
        raise ValueError(f"expected ids_true of shape [{steps}, {batch}, M], got {list(ids_true.shape)}")
    if boxes_true.shape != (*ids_true.shape, 4):
        raise ValueError(f"expected boxes_true of shape {[*ids_true.shape, 4]}, got {list(boxes_true.shape)}")
    inferred = boxes(objects.where, frame_size)
    boxes_true = boxes_true.to(inferred)
    far = _centre_distance(boxes_true, inferred).cpu().numpy()  # [T, B, M, N]
    overlap = intersection_over_union(boxes_true.unsqueeze(-2), inferred.unsqueeze(-3)).cpu().numpy()
    there, present = (ids_true >= 0).cpu().numpy(), (objects.pres > 0.5).cpu().numpy()
    names_true, names = ids_true.cpu().numpy(), objects.id.cpu().numpy()

    switches = matched = 0
    total_iou = 0.0
    for b in range(batch):
        last: dict[int, int] = {}  # true id -> the inferred id of its last match
        for t in range(steps):
            rows, columns = np.flatnonzero(there[t, b]), np.flatnonzero(present[t, b])
            pairs = _match(far[t, b][np.ix_(rows, columns)], reach * min(frame_size))
            for i, j in ((rows[r], columns[c]) for r, c in pairs):
                true, name = int(names_true[t, b, i]), int(names[t, b, j])
                switches += last.get(true, name) != name
                last[true] = name
                total_iou += float(overlap[t, b, i, j])
            matched += len(pairs)
    return TrackingScore(
        switches=switches,
        matched=matched,
        missed=int(there.sum()) - matched,
        spurious=int(present.sum()) - matched,
        mean_iou=total_iou / matched if matched else None,
    )


def _centre_distance(true: Tensor, inferred: Tensor) -> Tensor:
    """Distances in pixels, [*, M, N], of boxes [*, M, 4] and [*, N, 4]."""
    return torch.cdist(true[..., :2] + true[..., 2:] / 2, inferred[..., :2] + inferred[..., 2:] / 2)


def _match(distance: np.ndarray, reach: float) -> list[tuple[int, int]]:
    """Row and column of each pair, for distances of shape [M, N]."""
    # A forbidden pair costs more than all allowed ones together, so it never displaces an allowed one.
    cost = np.where(distance <= reach, distance, 1.0 + reach * (1 + min(distance.shape)))
    rows, columns = linear_sum_assignment(cost)
    return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if distance[r, c] <= reach]
