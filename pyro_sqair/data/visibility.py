# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Ground truth restricted to visible objects: that of generated videos continues outside the frame."""

from __future__ import annotations

import torch

from pyro_sqair.data.sequences import Sequences


def only_visible(sequences: Sequences, share: float = 0.25) -> Sequences:
    """Marks objects as absent in the frames that contain too little of their box.

    Args:
        sequences: `count` and `present` include invisible objects.
        share: least share of the box inside the frame for the object to count as visible, from 0 to 1.

    Returns:
        Sequences with `count`, `present`, `boxes` and `ids` of visible objects. The other fields are unchanged.

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
