# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""A batch of video with what is known about the objects in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

# Part of what a seed means: another size would draw other sequences.
_CHUNK = 250


class Physics(NamedTuple):
    """What a simulator knows beyond boxes; T frames, B sequences, at most M objects in each.

    Attributes:
        positions: centres (x, y) in pixels of the frame, float32 [T, B, M, 2]; zeros where absent.
        velocities: (x, y) in pixels a frame, float32 [T, B, M, 2]; zeros where absent.
        collisions: pixels of objects that collide in this very frame, bool [T, B, H, W].
        events: whether objects collide in this frame, bool [T, B].
    """

    positions: Tensor
    velocities: Tensor
    collisions: Tensor
    events: Tensor


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
        physics: what a simulator knows beyond that; None where nobody knows.
    """

    frames: Tensor
    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    present: Tensor
    boxes: Tensor
    ids: Tensor
    labels: Tensor
    physics: Physics | None = None

    def to(self, device: torch.device | str) -> Sequences:
        """The same sequences on another device."""
        return _combine([self], lambda fields, _: fields[0].to(device))

    def slice(self, sequences: slice | Tensor = slice(None), frames: slice = slice(None)) -> Sequences:
        """Some of the sequences, some of the frames.

        Args:
            sequences: which of B, a slice or int64 indices.
            frames: which of T.
        """

        def select(fields: tuple[Tensor, ...], has_time: bool) -> Tensor:
            return fields[0][frames][:, sequences] if has_time else fields[0][sequences]

        return _combine([self], select)

    def split(self, size: int) -> Iterator[Sequences]:
        """Batches of `size` sequences, in order; the last may be smaller.

        Raises:
            ValueError: if `size` is not positive.
        """
        if size < 1:
            raise ValueError(f"expected a batch size of at least 1, got {size}")
        for start in range(0, self.labels.shape[0], size):
            yield self.slice(slice(start, start + size))

    @staticmethod
    def cat(batches: list[Sequences]) -> Sequences:
        """Puts batches of equal length side by side; physics is kept if all have it."""
        return _combine(batches, lambda fields, has_time: torch.cat(fields, dim=int(has_time)))


def _combine(batches: list[Sequences], function: Callable[[tuple[Tensor, ...], bool], Tensor]) -> Sequences:
    """Makes each field of the result from that of all batches; the function is told if a field has a time axis."""
    fields = zip(*(batch[: Sequences._fields.index("physics")] for batch in batches), strict=True)
    made = [function(field, name != "labels") for name, field in zip(Sequences._fields, fields, strict=False)]
    physics = [batch.physics for batch in batches if batch.physics is not None]
    if len(physics) < len(batches):
        return Sequences._make([*made, None])
    return Sequences._make([*made, Physics._make(function(field, True) for field in zip(*physics, strict=True))])


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
    return Sequences.cat(list(draw_chunks(source, n, length, seed)))


def draw_chunks(source: Source, n: int, length: int, seed: int) -> Iterator[Sequences]:
    """The sequences of `held_out`, some at a time: what to use where all together would not fit in memory.

    Raises:
        ValueError: if `n` or `length` is below 1.
    """
    if n < 1 or length < 1:
        raise ValueError(f"expected n and length of at least 1, got {n} and {length}")
    generator = torch.Generator(source.device).manual_seed(seed)
    for start in range(0, n, _CHUNK):
        yield source.sample(min(_CHUNK, n - start), length, generator)
