# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Running a trained model and guide: reconstructing, predicting and dreaming up video."""

from __future__ import annotations

from typing import NamedTuple

import pyro.poutine as poutine
import torch
from torch import Tensor

from pyro_sqair.scene.frames import check_values
from pyro_sqair.scene.objects import Objects, State, stack_objects
from pyro_sqair.scene.program import Program


class Rollout(NamedTuple):
    """Objects and images over time.

    Attributes:
        objects: shape ``[T, B, N]``.
        image: the renderer's mean, shape ``[T, B, C, H, W]``.
    """

    objects: Objects
    image: Tensor


def _rollout(states: list[State]) -> Rollout:
    images = [state.image for state in states]
    assert all(image is not None for image in images)
    return Rollout(stack_objects([state.objects for state in states]), torch.stack(images))  # type: ignore[arg-type]


@torch.no_grad()
def infer_objects(guide: Program, frames: Tensor) -> Objects:
    """One draw of the objects from the guide.

    Args:
        guide: an inference program.
        frames: video, shape ``[T, B, C, H, W]``, values in [0, 1].

    Returns:
        Objects, shape ``[T, B, N]``.
    """
    check_values(frames)
    return stack_objects([state.objects for state in guide(frames)])


def reconstruct(model: Program, guide: Program, frames: Tensor) -> Rollout:
    """Infers the objects of a video and renders them.

    Args:
        model: a generative program.
        guide: its inference program.
        frames: video, shape ``[T, B, C, H, W]``, values in [0, 1].
    """
    return predict(model, guide, frames, len(frames))


def predict(model: Program, guide: Program, frames: Tensor, steps: int) -> Rollout:
    """Infers the objects of the frames that are seen, then lets the model imagine the rest.

    Args:
        model: a generative program.
        guide: its inference program.
        frames: the frames that are seen, shape ``[S, B, C, H, W]``, values in [0, 1].
        steps: the number T >= S of frames in all.
    """
    return futures(model, guide, frames, steps, 1)[0]


@torch.no_grad()
def futures(model: Program, guide: Program, frames: Tensor, steps: int, num: int) -> list[Rollout]:
    """Infers the objects of the frames that are seen, once, and lets the model imagine the rest several times.

    The guide runs on the frames it sees; the model is replayed on that trace and runs on.

    Args:
        model: a generative program.
        guide: its inference program.
        frames: the frames that are seen, shape ``[S, B, C, H, W]``, values in [0, 1].
        steps: the number T >= S of frames in all.
        num: how many futures to imagine.

    Returns:
        Rollouts that agree in the frames seen.
    """
    check_values(frames)
    if num < 1:
        raise ValueError(f"expected at least one future, got {num}")
    trace = poutine.trace(guide).get_trace(frames)
    return [_rollout(poutine.replay(model, trace=trace)(frames, steps)) for _ in range(num)]


@torch.no_grad()
def generate(model: Program, like: Tensor, steps: int, count: Tensor | None = None) -> Rollout:
    """Draws video from the prior.

    Args:
        model: a generative program.
        like: frames whose batch size, image size, dtype and device to take, shape ``[S, B, C, H, W]``.
        steps: the number T of frames.
        count: how many objects each sequence begins with, shape ``[B]``; None to draw that too. A count prior that is
            a price, not a belief, hardly ever draws any.
    """
    if count is not None:
        num_slots = model.scene.num_slots
        if count.shape != like.shape[1:2] or not ((count >= 0) & (count <= num_slots)).all():
            raise ValueError(
                f"expected {like.shape[1]} counts from 0 to {num_slots}, got shape {list(count.shape)} with values "
                f"{sorted(set(count.tolist()))}"
            )
        given = {f"frame_0/disc_{i}/pres": (count > i).to(like.dtype) for i in range(int(count.max()) + 1)}
        return _rollout(poutine.condition(model, data=given)(like[:0], steps))
    return _rollout(model(like[:0], steps))


def standing_still(rollout: Rollout, seen: int) -> Rollout:
    """The simplest forecast there is: from the last frame seen on, nothing moves.

    Args:
        rollout: of which the first frames are kept.
        seen: how many, at least 1.

    Returns:
        A rollout of the same length.
    """
    frame = torch.arange(len(rollout.image), device=rollout.image.device).clamp(max=seen - 1)
    return Rollout(Objects(*(field[frame] for field in rollout.objects)), rollout.image[frame])
