# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The spatial transformer: ``where`` to box, image to glimpse, glimpses to image.

The transform has no rotation or shear (Eslami et al. 2016; Kosiorek et al. 2018, Fig. 1), so it acts on rows and
columns separately. Coordinates run from -1 to 1 between the outer edges of the image; a box of scale 1 at shift 0 is
the whole image.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_SCALE = 1e-4  # keeps the inverse transform finite when sigmoid underflows


def scale_and_shift(where: Tensor) -> tuple[Tensor, Tensor]:
    """Maps ``where`` logits ``[*, 4]`` to scale in (0, 1) and shift in (-1, 1), each ``[*, 2]`` in order (x, y)."""
    scale, shift = where.split(2, dim=-1)
    return scale.sigmoid().clamp(min=MIN_SCALE), shift.tanh()


def boxes(where: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Boxes in pixels.

    Args:
        where: logits, shape ``[*, 4]``.
        image_size: (H, W) of the image.

    Returns:
        (left, top, width, height) in pixels, shape ``[*, 4]``; a box may reach outside the image.
    """
    scale, shift = scale_and_shift(where)
    size = where.new_tensor([image_size[1], image_size[0]])
    return torch.cat([(shift - scale + 1) / 2 * size, scale * size], -1)


def where_from_boxes(box: Tensor, image_size: tuple[int, int]) -> Tensor:
    """The inverse of :func:`boxes`, for boxes smaller than the image whose centre lies inside it.

    Args:
        box: (left, top, width, height) in pixels, shape ``[*, 4]``.
        image_size: (H, W) of the image.

    Returns:
        ``where`` logits, shape ``[*, 4]``.
    """
    size = box.new_tensor([image_size[1], image_size[0]])
    scale = box[..., 2:] / size
    shift = 2 * box[..., :2] / size - 1 + scale
    return torch.cat([torch.logit(scale), torch.atanh(shift)], -1)


def intersection_over_union(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of two boxes; 0 for empty boxes.

    Args:
        first: (left, top, width, height), shape ``[*, 4]``.
        second: the same; shapes broadcast.

    Returns:
        Shape ``[*]``.
    """
    start = torch.maximum(first[..., :2], second[..., :2])
    stop = torch.minimum(first[..., :2] + first[..., 2:], second[..., :2] + second[..., 2:])
    intersection = (stop - start).clamp(min=0).prod(-1)
    union = first[..., 2:].prod(-1) + second[..., 2:].prod(-1) - intersection
    return intersection / union.clamp(min=torch.finfo(union.dtype).tiny)


@functools.lru_cache(maxsize=64)
def _centres(num: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Centres of ``num`` cells that tile [-1, 1]."""
    with torch.inference_mode(False):  # a cached inference tensor could not be used in training
        return (2 * torch.arange(num, dtype=dtype, device=device) + 1) / num - 1


def crop(image: Tensor, where: Tensor, glimpse_size: tuple[int, int]) -> Tensor:
    """Extracts glimpses: ``ST(x, where)`` of Algorithms 2 and 3, bilinear, zero outside the image.

    Args:
        image: shape ``[*b, C, H, W]``.
        where: logits, shape ``[*e, *b, 4]``; extra dimensions crop the same image many times without copying it.
        glimpse_size: (h, w) of a glimpse in pixels.

    Returns:
        Glimpses, shape ``[*e, *b, C, h, w]``.
    """
    height, width = glimpse_size
    batch = image.shape[:-3]
    extra = where.shape[: where.dim() - 1 - len(batch)]
    num, copies = math.prod(batch), math.prod(extra)
    # The glimpses of one image are stacked vertically in one tall grid, so the image is not repeated.
    scale, shift = scale_and_shift(where.reshape(copies, num, 4).transpose(0, 1))
    xs = _centres(width, where.dtype, where.device) * scale[..., :1] + shift[..., :1]
    ys = _centres(height, where.dtype, where.device) * scale[..., 1:] + shift[..., 1:]
    grid = torch.stack(torch.broadcast_tensors(xs.unsqueeze(-2), ys.unsqueeze(-1)), -1)  # [num, copies, h, w, 2]
    glimpse = F.grid_sample(
        image.reshape(num, *image.shape[-3:]),
        grid.reshape(num, copies * height, width, 2),
        align_corners=False,
    )
    glimpse = glimpse.reshape(num, -1, copies, height, width).permute(2, 0, 1, 3, 4)
    return glimpse.reshape(*extra, *batch, -1, height, width)


class Placement(NamedTuple):
    """Positions of glimpses in an image, as bilinear weights of rows and of columns.

    Attributes:
        rows: shape ``[*, N, H, h]``.
        columns: shape ``[*, N, W, w]``.
    """

    rows: Tensor
    columns: Tensor


def place(where: Tensor, glimpse_size: tuple[int, int], image_size: tuple[int, int]) -> Placement:
    """The inverse transform ``ST^-1`` of Algorithm 1, as bilinear weights.

    Args:
        where: logits, shape ``[*, N, 4]``.
        glimpse_size: (h, w) in pixels.
        image_size: (H, W) in pixels.
    """
    scale, shift = scale_and_shift(where)

    def weights(axis: int, cells: int, pixels: int) -> Tensor:
        position = (_centres(pixels, where.dtype, where.device) - shift[..., axis, None]) / scale[..., axis, None]
        index = ((position + 1) * cells - 1) / 2  # fractional glimpse cell of each pixel
        cell = torch.arange(cells, dtype=where.dtype, device=where.device)
        return (1 - (index.unsqueeze(-1) - cell).abs()).clamp(min=0)

    return Placement(weights(1, glimpse_size[0], image_size[0]), weights(0, glimpse_size[1], image_size[1]))


def paste(glimpses: Tensor, placement: Placement) -> Tensor:
    """Writes glimpses into an image and sums them over slots (Algorithm 1, lines 3 and 5).

    Args:
        glimpses: shape ``[*, N, C, h, w]``, already multiplied by presence.
        placement: from :func:`place`.

    Returns:
        The image, shape ``[*, C, H, W]``.
    """
    *batch, slots, channels, height, width = glimpses.shape
    pixels = placement.rows.shape[-2]
    rows_first = glimpses.transpose(-3, -2).reshape(*batch, slots, height, channels * width)
    tall = placement.rows @ rows_first  # [*, N, H, C w]
    tall = tall.reshape(*batch, slots, pixels, channels, width).transpose(-4, -2)  # [*, C, H, N, w]
    columns = placement.columns.transpose(-1, -2).reshape(*batch, 1, slots * width, -1)
    # This product sums over slots as well.
    return tall.reshape(*batch, channels, pixels, slots * width) @ columns


def coverage(pres: Tensor, placement: Placement) -> Tensor:
    """Sum of the glimpses' weights at each pixel, equal to :func:`paste` of glimpses of ones.

    Args:
        pres: presence, shape ``[*, N]``.
        placement: from :func:`place`.

    Returns:
        Shape ``[*, 1, H, W]``, 0 where no glimpse reaches.
    """
    rows = placement.rows.sum(-1) * pres.unsqueeze(-1)  # [*, N, H]
    return (rows.transpose(-1, -2) @ placement.columns.sum(-1)).unsqueeze(-3)
