# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Number of objects, and frames in which they are discovered."""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_sqair.scene.objects import Objects


class CountAccuracy(NamedTuple):
    """Share of frames in which the inferred number of objects equals the true one.

    Attributes:
        overall: among all frames of all sequences.
        per_frame: among all sequences, for each of the T frames.
    """

    overall: float
    per_frame: list[float]


def count_accuracy(pres: Tensor, count: Tensor) -> CountAccuracy:
    """Compares the inferred number of objects with the true one (Kosiorek et al. 2018, Table 1, "Counting").

    Args:
        pres: inferred presence, 0 or 1, shape [T, B, N].
        count: true number of objects, shape [T, B].

    Raises:
        ValueError: if the shapes do not fit, or there is no frame.
    """
    check_presence(pres)
    if count.shape != pres.shape[:2]:
        raise ValueError(f"expected count of shape {list(pres.shape[:2])} as pres has, got {list(count.shape)}")
    correct = ((pres > 0.5).sum(-1) == count).double()
    return CountAccuracy(correct.mean().item(), correct.mean(1).tolist())


def discoveries_per_frame(objects: Objects) -> list[float]:
    """Mean number of objects per sequence whose id occurs for the first time in frame t.

    If all objects are present from the start, this should be their mean number in the first frame and near 0 later. A
    model that rediscovers its objects in every frame can count well without tracking.

    Args:
        objects: stacked over time, fields of shape [T, B, N, ...].

    Returns:
        One number for each of the T frames.

    Raises:
        ValueError: if the presence is not of shape [T, B, N].
    """
    check_presence(objects.pres)
    present = objects.pres > 0.5
    ids = torch.where(present, objects.id, -1)
    means = []
    for t in range(ids.shape[0]):
        earlier = ids[:t].transpose(0, 1).flatten(1)  # [B, t * N]
        known = (ids[t].unsqueeze(-1) == earlier.unsqueeze(-2)).any(-1)
        means.append((present[t] & ~known).sum(-1).double().mean().item())
    return means


def check_presence(pres: Tensor) -> None:
    """Checks the shape of presence stacked over time.

    Raises:
        ValueError: if it is not [T, B, N] with at least one frame and one sequence.
    """
    if pres.dim() != 3 or 0 in pres.shape[:2]:
        raise ValueError(f"expected pres of shape [T, B, N] with T, B > 0, got {list(pres.shape)}")
