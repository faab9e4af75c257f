# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Checks of ground truth: what the format promises about counts, presence, boxes, ids and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

GROUND_TRUTH = ("count", "present", "boxes", "ids", "labels")


def check_ground_truth(stored: Mapping[str, Tensor], index: Sequence[int], path: Path) -> None:
    """Checks the ground truth of B sequences against the format (docs/data.md).

    Args:
        stored: the fields of `GROUND_TRUTH` as a file stores them, sequence first, such as `boxes` [B, T, M, 4].
        index: the positions of these sequences in the file.
        path: of the file.

    Raises:
        ValueError: if `count` is neither -1 nor the number of present objects; the box of a present object is not
            finite or its size negative; ids of present objects are negative or occur twice in a frame; an absent object
            has a box or an id; or a label is below -1. The message names the file, sequence, frame, field and value.
    """
    count, present, boxes, ids, labels = (stored[name] for name in GROUND_TRUTH)
    slots = torch.arange(present.shape[-1], device=ids.device)
    distinct = torch.where(present, ids, -1 - slots).sort(-1).values.diff(dim=-1).ne(0).all(-1)
    sized = boxes.isfinite().all(-1) & (boxes[..., 2:] >= 0).all(-1)
    rules = (
        ("count to be the number of objects present, or -1 where not annotated",
         (count == present.sum(-1)) | (count == -1), ("count", "present")),
        ("finite boxes with sizes of at least 0 where present, and zeros where absent",
         torch.where(present, sized, (boxes == 0).all(-1)), ("boxes", "present")),
        ("ids of at least 0 where present, and -1 where absent",
         torch.where(present, ids >= 0, ids == -1), ("ids", "present")),
        ("different ids for the objects of a frame", distinct, ("ids", "present")),
        ("labels of at least -1", labels >= -1, ("labels",)),
    )  # fmt: skip
    for expected, valid, names in rules:
        if not bool(valid.all()):
            place = tuple((~valid).nonzero()[0].tolist())
            axes = ("sequence", "object") if names == ("labels",) else ("sequence", "frame", "object")
            numbers = zip(axes, (index[place[0]], *place[1:]), strict=False)
            where = ", ".join(f"{axis} {number}" for axis, number in numbers)
            found = " with ".join(f"{name} {stored[name][place].tolist()}" for name in names)
            raise ValueError(f"expected {expected} in {path}, got {found} in {where} (from 0)")
