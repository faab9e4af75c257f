# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Tracking against ground truth: matches, identity switches and overlap of boxes."""

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pyro_sqair.evaluation.counting import check_presence
from pyro_sqair.scene.objects import Objects
from pyro_sqair.scene.spatial import boxes, intersection_over_union


class TrackingScore(NamedTuple):
    """How well inferred objects follow the true ones, summed over all frames and sequences.

    Attributes:
        matched: pairs of a true and an inferred object.
        missed: true objects without an inferred one.
        spurious: inferred objects without a true one.
        rematched: matches of a true object that was matched in an earlier frame too.
        switches: those of them whose inferred id differs from that of the last match.
        mean_iou: intersection over union, averaged over the matched pairs; None if there are none.
    """

    matched: int
    missed: int
    spurious: int
    rematched: int
    switches: int
    mean_iou: float | None

    @property
    def ids_kept(self) -> float | None:
        """Share of the rematched objects with the same id as at their last match; None if there are none."""
        return 1 - self.switches / self.rematched if self.rematched else None


def tracking_score(
    objects: Objects,
    boxes_true: Tensor,
    ids_true: Tensor,
    frame_size: tuple[int, int],
    reach: float = 0.2,
) -> TrackingScore:
    """Matches inferred with true objects in every frame, and counts the changes of the matched id.

    Each frame is matched on its own: with as many pairs as possible and, among those matchings, the one with the least
    sum of distances between centres. A switch is a mismatch in the sense of Bernardin & Stiefelhagen (2008, "Evaluating
    multiple object tracking performance"), whose matching in contrast keeps pairs of the previous frame. Objects may
    enter, leave and return.

    Args:
        objects: stacked over time, fields of shape [T, B, N, ...].
        boxes_true: left, top, width, height in pixels, shape [T, B, M, 4].
        ids_true: shape [T, B, M], -1 where absent.
        frame_size: height and width of a frame in pixels.
        reach: largest distance between the centres of a pair, as a fraction of the frame's shorter side.

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
    distance = _centre_distance(boxes_true, inferred).cpu().numpy()  # [T, B, M, N]
    overlap = intersection_over_union(boxes_true.unsqueeze(-2), inferred.unsqueeze(-3)).cpu().numpy()
    present_true, present = (ids_true >= 0).cpu().numpy(), (objects.pres > 0.5).cpu().numpy()
    names_true, names = ids_true.tolist(), objects.id.tolist()

    ious: list[float] = []
    rematched = switches = 0
    for b in range(batch):
        last: dict[int, int] = {}  # true id -> inferred id of its last match
        for t in range(steps):
            rows, columns = np.flatnonzero(present_true[t, b]), np.flatnonzero(present[t, b])
            for r, c in _match(distance[t, b][np.ix_(rows, columns)], reach * min(frame_size)):
                true_id, inferred_id = names_true[t][b][rows[r]], names[t][b][columns[c]]
                rematched += true_id in last
                switches += last.get(true_id, inferred_id) != inferred_id
                last[true_id] = inferred_id
                ious.append(float(overlap[t, b, rows[r], columns[c]]))
    return TrackingScore(
        matched=len(ious),
        missed=int(present_true.sum()) - len(ious),
        spurious=int(present.sum()) - len(ious),
        rematched=rematched,
        switches=switches,
        mean_iou=sum(ious) / len(ious) if ious else None,
    )


def _centre_distance(true: Tensor, inferred: Tensor) -> Tensor:
    """Distances in pixels, [*, M, N], of boxes [*, M, 4] and [*, N, 4]."""
    return torch.cdist(true[..., :2] + true[..., 2:] / 2, inferred[..., :2] + inferred[..., 2:] / 2)


def _match(distance: np.ndarray, reach: float) -> list[tuple[int, int]]:
    """Row and column of each pair within reach, for distances of shape [M, N]."""
    # A pair out of reach costs more than all pairs within reach together, so it never displaces one of them.
    cost = np.where(distance <= reach, distance, 1.0 + reach * (1 + min(distance.shape)))
    rows, columns = linear_sum_assignment(cost)
    return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if distance[r, c] <= reach]
