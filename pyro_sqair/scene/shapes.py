# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Batch shapes."""

from __future__ import annotations

import torch


def batch_shape(*shapes: torch.Size) -> torch.Size:
    """The shape to which ``shapes`` broadcast.

    The same as :func:`torch.broadcast_shapes`, which takes 60 microseconds, several hundred times a training step;
    here each shape is nearly always the end of the longest one.
    """
    longest = max(shapes, key=len)
    for shape in shapes:
        if longest[len(longest) - len(shape) :] != shape:
            return torch.broadcast_shapes(*shapes)
    return longest
