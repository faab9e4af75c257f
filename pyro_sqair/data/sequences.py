# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""A batch of video with what is known about the objects in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

_HELD_OUT_CHUNK = 250


class Sequences(NamedTuple):
    """Frames and ground truth; T frames, B sequences, at most M objects in each.

    Attributes:
        frames: pixels in [0, 1], float32 [T, B, C, H, W].
        count: the true number of objects, int64 [T, B].
        present: whether the sequence has this object, bool [T, B, M].
        boxes: left, top, width, height in pixels, float32 [T, B, M, 4]; a box may reach outside the frame,
            and is all zeros where the object is absent.
        ids: who the object is, int64 [T, B, M], -1 where absent.
        labels: the class of each object, int64 [B, M], -1 where absent.
    """

    frames: Tensor
    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    present: Tensor
    boxes: Tensor
    ids: Tensor
    labels: Tensor

    def to(self, device: torch.device | str) -> Sequences:
        """The same sequences on another device."""
        return Sequences(*(field.to(device) for field in self))

    def split(self, size: int) -> Iterator[Sequences]:
        """Batches of `size` sequences, in order; the last may be smaller.

        Raises:
            ValueError: if `size` is not positive.
        """
        if size < 1:
            raise ValueError(f"expected a batch size of at least 1, got {size}")
        for start in range(0, self.labels.shape[0], size):
            stop = start + size
            over_time = (field[:, start:stop] for field in self[:-1])
            yield Sequences._make([*over_time, self.labels[start:stop]])

    @staticmethod
    def cat(batches: list[Sequences]) -> Sequences:
        """Puts batches of equal length side by side."""
        fields = list(zip(*batches, strict=True))
        over_time = (torch.cat(field, dim=1) for field in fields[:-1])
        return Sequences._make([*over_time, torch.cat(fields[-1], dim=0)])


class Source(Protocol):
    """Whatever makes sequences on demand."""

    device: torch.device

    def sample(self, batch: int, length: int, generator: torch.Generator) -> Sequences:
        """Draws `batch` sequences of `length` frames."""
        ...


def held_out(source: Source, n: int, length: int, seed: int) -> Sequences:
    """A fixed set of sequences for evaluation: the same for the same arguments and kind of device.

    Args:
        source: made with test images, for the set to be held out.
        n: number of sequences.
        length: frames in each.
        seed: of the generator that draws them.

    Raises:
        ValueError: if `n` or `length` is below 1.
    """
    if n < 1 or length < 1:
        raise ValueError(f"expected n and length of at least 1, got {n} and {length}")
    generator = torch.Generator(source.device).manual_seed(seed)
    sizes = [min(_HELD_OUT_CHUNK, n - start) for start in range(0, n, _HELD_OUT_CHUNK)]
    return Sequences.cat([source.sample(size, length, generator) for size in sizes])
