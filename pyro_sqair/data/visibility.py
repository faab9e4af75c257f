# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Which of the objects can be seen: ground truth goes on outside the frame, and no program can know of it."""

from __future__ import annotations

import torch

from pyro_sqair.data.sequences import Sequences


def only_visible(sequences: Sequences, share: float = 0.25) -> Sequences:
    """The same sequences with the objects marked absent, in the frames where too little of their box is in the frame.

    Args:
        sequences: whose `count` and `present` say who is there, seen or not.
        share: of the box that must be inside the frame for the object to count as seen there, from 0 to 1.

    Returns:
        Sequences with `count`, `present`, `boxes` and `ids` of what is visible. Labels and physics stay as they are.

    Raises:
        ValueError: if `share` is out of range.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"expected a share from 0 to 1, got {share}")
    height, width = sequences.frames.shape[-2:]
    corner, size = sequences.boxes.split(2, -1)
    end = torch.minimum(corner + size, corner.new_tensor([width, height]))
    inside = (end - corner.clamp(min=0.0)).clamp(min=0.0).prod(-1)
    whole = size.prod(-1)
    seen = sequences.present & (inside > 0) & (inside >= share * whole)
    return sequences._replace(
        count=seen.sum(-1),
        present=seen,
        boxes=torch.where(seen.unsqueeze(-1), sequences.boxes, 0.0),
        ids=torch.where(seen, sequences.ids, -1),
    )
