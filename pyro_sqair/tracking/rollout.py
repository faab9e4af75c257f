# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Rollouts of a trained model and guide: reconstruction, prediction and generation of video."""

from __future__ import annotations

from typing import NamedTuple

import pyro.poutine as poutine
import torch
from torch import Tensor

from pyro_sqair.scene.objects import Objects, State, stack_objects
from pyro_sqair.scene.program import Program


class Rollout(NamedTuple):
    """Objects and images over time.

    Attributes:
        objects: shape ``[T, B, N]``.
        image: the rendered mean, shape ``[T, B, C, H, W]``.
    """

    objects: Objects
    image: Tensor


def _rollout(states: list[State]) -> Rollout:
    objects = stack_objects([state.objects for state in states])
    images = [state.image for state in states if state.image is not None]
    return Rollout(objects, torch.stack(images))


@torch.no_grad()
def infer_objects(guide: Program, frames: Tensor) -> Objects:
    """Samples the objects of a video from the guide.

    Args:
        guide: an inference program.
        frames: video, shape ``[T, B, C, H, W]``, values in [0, 1].

    Returns:
        Objects, shape ``[T, B, N]``.
    """
    guide.check(frames)
    return stack_objects([state.objects for state in guide(frames)])


def reconstruct(model: Program, guide: Program, frames: Tensor) -> Rollout:
    """Samples the objects of a video from the guide and renders them.

    Args:
        model: a generative program.
        guide: its inference program.
        frames: video, shape ``[T, B, C, H, W]``, values in [0, 1].
    """
    return predict(model, guide, frames, len(frames))


def predict(model: Program, guide: Program, frames: Tensor, steps: int) -> Rollout:
    """Samples the objects of the frames seen from the guide and one continuation from the model.

    Args:
        model: a generative program.
        guide: its inference program.
        frames: the frames seen, shape ``[S, B, C, H, W]``, values in [0, 1].
        steps: the total number T >= S of frames.
    """
    return futures(model, guide, frames, steps, 1)[0]


@torch.no_grad()
def futures(model: Program, guide: Program, frames: Tensor, steps: int, num: int) -> list[Rollout]:
    """Samples the objects of the frames seen once, and several continuations from the model.

    The model is replayed on the guide's trace of the frames seen, and generates the frames after them.

    Args:
        model: a generative program.
        guide: its inference program.
        frames: the frames seen, shape ``[S, B, C, H, W]``, values in [0, 1].
        steps: the total number T >= S of frames.
        num: the number of continuations.

    Returns:
        Rollouts that are equal in the frames seen.
    """
    guide.check(frames)
    if num < 1:
        raise ValueError(f"expected at least one future, got {num}")
    trace = poutine.trace(guide).get_trace(frames)
    return [_rollout(poutine.replay(model, trace=trace)(frames, steps)) for _ in range(num)]


@torch.no_grad()
def generate(model: Program, like: Tensor, steps: int, count: Tensor | None = None) -> Rollout:
    """Samples video from the prior.

    Args:
        model: a generative program.
        like: frames whose batch size, image size, dtype and device to use, shape ``[S, B, C, H, W]``.
        steps: the number T of frames.
        count: the number of objects in the first frame, shape ``[B]``; None to sample it. A count prior that is a
            fixed price per object rarely samples any.
    """
    if count is not None:
        num_slots = model.scene.num_slots
        if count.shape != like.shape[1:2] or not ((count >= 0) & (count <= num_slots)).all():
            raise ValueError(
                f"expected {like.shape[1]} counts from 0 to {num_slots}, got shape {list(count.shape)} with values "
                f"{sorted(set(count.tolist()))}"
            )
        pres = {f"frame_0/disc_{i}/pres": (count > i).to(like.dtype) for i in range(int(count.max()) + 1)}
        return _rollout(poutine.condition(model, data=pres)(like[:0], steps))
    return _rollout(model(like[:0], steps))


def standing_still(rollout: Rollout, seen: int) -> Rollout:
    """Baseline forecast that repeats the last frame seen.

    Args:
        rollout: a rollout of T frames.
        seen: the number of frames to keep, at least 1.

    Returns:
        A rollout of T frames.
    """
    frame = torch.arange(len(rollout.image), device=rollout.image.device).clamp(max=seen - 1)
    return Rollout(Objects(*(field[frame] for field in rollout.objects)), rollout.image[frame])
