# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""A made-up scene whose every pixel and box is known."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pyro_sqair.scene.objects import Objects
from pyro_sqair.tracking.rollout import Rollout

Scene = Callable[..., tuple[Tensor, Rollout]]


def _moving_box(
    steps: int = 4,
    batch: int = 2,
    size: tuple[int, int] = (40, 50),
    channels: int = 3,
    ids: tuple[int, ...] = (0,),
) -> tuple[Tensor, Rollout]:
    """Frames of one colour, #004080, and a rollout with images of another, #408000; with one channel, greys.

    Object n is in the box (10 + 2 t, 12 n + 6, 16, 8), and an absent slot follows the present ones.
    """
    height, width = size
    first, second = ((0, 64, 128), (64, 128, 0)) if channels == 3 else ((64,), (128,))
    frames, image = (
        (torch.tensor(color) / 255).view(-1, 1, 1).expand(steps, batch, -1, height, width) for color in (first, second)
    )
    time = torch.arange(steps).view(-1, 1, 1).expand(steps, batch, len(ids) + 1)
    slot = torch.arange(len(ids) + 1).expand_as(time)
    scale = torch.stack([torch.full_like(time, 16) / width, torch.full_like(time, 8) / height], -1)
    shift = torch.stack([2 * (10 + 2 * time + 8) / width - 1, 2 * (12 * slot + 6 + 4) / height - 1], -1)
    where = torch.cat([scale.logit(), shift.clamp(max=0.9).atanh()], -1)
    name = torch.tensor([*ids, -1]).expand_as(time)
    objects = Objects(pres=(name >= 0).float(), where=where, what=torch.zeros(*name.shape, 1), id=name)
    return frames, Rollout(objects, image)


@pytest.fixture
def moving_box() -> Scene:
    """What makes frames and a rollout of them."""
    return _moving_box
