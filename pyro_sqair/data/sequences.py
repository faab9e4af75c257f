# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Batches of video with ground truth: their pixels, the objects in them, and sources that draw them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

# Sequences drawn at a time; another size would give other sequences for the same seed.
_CHUNK = 250
# Of generated frames, pixels; the published ones have 50 and 64. A chunk of larger ones takes many gigabytes.
LARGEST_SIDE = 512
# A single product, so that all devices and NumPy give the same float32 for the same byte.
_STEP = 1.0 / 255.0


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
        require(size >= 1, "a batch size of at least 1", size)
        for start in range(0, self.labels.shape[0], size):
            yield self.slice(slice(start, start + size))

    @staticmethod
    def cat(batches: list[Sequences]) -> Sequences:
        """Joins batches of equal length along B; collisions are kept if all batches have them."""
        fields = zip(Sequences._fields, zip(*batches, strict=True), strict=True)
        known = {name: values for name, values in fields if all(value is not None for value in values)}
        return Sequences(**{name: torch.cat(values, int(name != "labels")) for name, values in known.items()})


def place_objects(
    frames: Tensor, present: Tensor, boxes: Tensor, labels: Tensor, collisions: Tensor | None = None
) -> Sequences:
    """Sequences whose objects are present in all frames or in none; the index of an object is its id.

    Args:
        frames: float32 [T, B, C, H, W].
        present: bool [B, M].
        boxes: [T, B, M, 4]; those of absent objects are ignored, as are their labels.
        labels: int64 [B, M].
        collisions: bool [T, B, H, W].
    """
    length = len(frames)
    slots = torch.arange(present.shape[1], device=present.device)
    return Sequences(
        frames=frames,
        count=present.sum(-1).repeat(length, 1),
        present=present.repeat(length, 1, 1),
        boxes=torch.where(present[..., None], boxes, 0.0).float(),
        ids=torch.where(present, slots, -1).repeat(length, 1, 1),
        labels=torch.where(present, labels, -1),
        collisions=collisions,
    )


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
    require(0 <= share <= 1, "a share from 0 to 1", share)
    height, width = sequences.frames.shape[-2:]
    corner, size = sequences.boxes.split(2, -1)
    end = torch.minimum(corner + size, corner.new_tensor([width, height]))
    inside = (end - corner.clamp(min=0.0)).clamp(min=0.0).prod(-1)
    seen = sequences.present & (inside > 0) & (inside >= share * size.prod(-1))
    return sequences._replace(
        count=seen.sum(-1),
        present=seen,
        boxes=torch.where(seen[..., None], sequences.boxes, 0.0),
        ids=torch.where(seen, sequences.ids, -1),
    )


def from_uint8(pixels: Tensor) -> Tensor:
    """Converts bytes k to float32 k/255, the values of the frames of all sources."""
    return pixels.to(torch.float32, copy=True, memory_format=torch.contiguous_format).mul_(_STEP)


def quantise(frames: Tensor) -> Tensor:
    """Rounds frames to the nearest value k/255 for a byte k, float32; values outside [0, 1] are clipped."""
    return from_uint8(_nearest(frames))


def to_uint8(frames: Tensor) -> Tensor:
    """Converts frames to bytes; `from_uint8` restores them exactly.

    Raises:
        ValueError: if a pixel is not k/255 for a byte k.
    """
    pixels = _nearest(frames)
    restored = from_uint8(pixels)
    if frames.dtype != torch.float32 or not torch.equal(restored, frames):
        same_type = frames.dtype == torch.float32
        got = f"a pixel of {float(frames[frames != restored][0])}" if same_type else frames.dtype
        raise ValueError(
            "expected float32 frames whose pixels are all k/255 for a byte k, which a file stores exactly, got "
            f"{got}; pyro_sqair.data.quantise rounds frames to these values"
        )
    return pixels


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
    """The sequences of `held_out` in batches, for sets that do not fit in memory; errors are the same."""
    require(n >= 1 and length >= 1, "n and length of at least 1", f"{n} and {length}")
    generator = torch.Generator(source.device).manual_seed(seed)
    for start in range(0, n, _CHUNK):
        yield source.sample(min(_CHUNK, n - start), length, generator)


def check_draw(source: Source, batch: int, length: int, generator: torch.Generator) -> None:
    """Raises a ValueError if `batch` or `length` is below 1, or the generator is not on the device of the source."""
    require(batch >= 1 and length >= 1, "batch and length of at least 1", f"{batch} and {length}")
    device = generator.device
    require(device.type == source.device.type, f"a generator on {source.device}", f"one on {device}")


def require(condition: object, expected: str, got: object) -> None:
    """Raises a ValueError "expected ..., got ..." unless the condition holds."""
    if not condition:
        raise ValueError(f"expected {expected}, got {got}")


def _nearest(frames: Tensor) -> Tensor:
    return (frames * 255.0).round_().clamp_(0.0, 255.0).to(torch.uint8)
