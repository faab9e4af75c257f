# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Batches of video with ground truth, and sources of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

# Sequences drawn at a time; another size would give other sequences for the same seed.
_CHUNK = 250


class Sequences(NamedTuple):
    """Frames and ground truth; T frames, B sequences, at most M objects in each.

    Attributes:
        frames: pixels in [0, 1], float32 [T, B, C, H, W].
        count: the true number of objects, int64 [T, B]; -1 where not annotated.
        present: whether the sequence has this object, bool [T, B, M].
        boxes: left, top, width, height in pixels, float32 [T, B, M, 4]; a box may reach outside the frame, and is all
            zeros where the object is absent.
        ids: the identity of the object, int64 [T, B, M], -1 where absent.
        labels: the class of each object, int64 [B, M], -1 where absent.
        collisions: pixels of objects that collide in this frame, bool [T, B, H, W]; None if not annotated.
    """

    frames: Tensor
    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which is not needed here
    present: Tensor
    boxes: Tensor
    ids: Tensor
    labels: Tensor
    collisions: Tensor | None = None

    def to(self, device: torch.device | str) -> Sequences:
        """The same sequences on another device."""
        return Sequences._make(field if field is None else field.to(device) for field in self)

    def slice(self, sequences: slice | Tensor = slice(None), frames: slice = slice(None)) -> Sequences:
        """Some of the sequences, some of the frames.

        Args:
            sequences: a slice of B, or int64 indices.
            frames: a slice of T.
        """
        timed = {name: field for name, field in self._asdict().items() if name != "labels" and field is not None}
        selected = {name: field[frames][:, sequences] for name, field in timed.items()}
        return Sequences(labels=self.labels[sequences], **selected)

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
        """Joins batches of equal length along B; collisions are kept if all batches have them."""
        fields = zip(Sequences._fields, zip(*batches, strict=True), strict=True)
        known = {name: values for name, values in fields if all(value is not None for value in values)}
        return Sequences(**{name: torch.cat(values, int(name != "labels")) for name, values in known.items()})


class Source(Protocol):
    """A generator or file that gives sequences on demand."""

    device: torch.device

    def sample(self, batch: int, length: int, generator: torch.Generator) -> Sequences:
        """Draws `batch` sequences of `length` frames."""
        ...


def held_out(source: Source, n: int, length: int, seed: int) -> Sequences:
    """A fixed set of sequences for evaluation: the same for the same arguments and device type.

    Args:
        source: made with test images, so that the set is held out.
        n: number of sequences.
        length: frames in each.
        seed: seed of the generator that draws them.

    Raises:
        ValueError: if `n` or `length` is below 1.
    """
    return Sequences.cat(list(draw_chunks(source, n, length, seed)))


def draw_chunks(source: Source, n: int, length: int, seed: int) -> Iterator[Sequences]:
    """The sequences of `held_out` in batches, for sets that do not fit in memory.

    Raises:
        ValueError: if `n` or `length` is below 1.
    """
    if n < 1 or length < 1:
        raise ValueError(f"expected n and length of at least 1, got {n} and {length}")
    generator = torch.Generator(source.device).manual_seed(seed)
    for start in range(0, n, _CHUNK):
        yield source.sample(min(_CHUNK, n - start), length, generator)
