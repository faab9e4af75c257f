# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Which sequences of a recorded set make a batch, and which frames of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Windows(NamedTuple):
    """`length` consecutive frames out of each of B sequences.

    Attributes:
        sequences: which ones, int64 [B].
        starts: the first frame of each, int64 [B].
        length: frames in each.
    """

    sequences: Tensor
    starts: Tensor
    length: int


def random_windows(
    total: int, num_frames: int, batch: int, length: int, generator: torch.Generator, device: torch.device
) -> Windows:
    """Draws sequences uniformly and a window of each uniformly, without reading anything back from the device.

    No sequence comes twice in a batch of at most `total`; in a larger one, each comes as often as any other, give or
    take one. All windows that fit are equally likely.

    Args:
        total: sequences there are.
        num_frames: frames in each of them.
        batch: B, sequences to draw.
        length: frames of each to take.
        generator: of the draws, on `device`.
        device: where the indices are made.

    Raises:
        ValueError: if `batch` or `length` is below 1, `length` is more than `num_frames`, or the generator is on
            another device.
    """
    if batch < 1 or length < 1:
        raise ValueError(f"expected batch and length of at least 1, got {batch} and {length}")
    if length > num_frames:
        raise ValueError(f"expected a length of at most {num_frames}, the frames in a sequence, got {length}")
    if generator.device.type != device.type:
        raise ValueError(f"expected a generator on {device}, got one on {generator.device}")
    rounds = [torch.randperm(total, generator=generator, device=device) for _ in range(-(-batch // total))]
    starts = torch.randint(num_frames - length + 1, (batch,), generator=generator, device=device)
    return Windows(torch.cat(rounds)[:batch], starts, length)


def chosen_windows(
    total: int, num_frames: int, sequences: slice | list[int] | Tensor, frames: slice
) -> tuple[Windows, int]:
    """The same window of chosen sequences.

    Args:
        total: sequences there are.
        num_frames: frames in each of them.
        sequences: which ones, in any order; negative numbers count from the end.
        frames: which frames, in order.

    Returns:
        The windows, and the step between the frames of each that are wanted.

    Raises:
        IndexError: if there is no such sequence.
        ValueError: if no sequence or no frame is chosen, or the frames are asked for backwards.
    """
    if isinstance(sequences, slice):
        index = torch.tensor(range(*sequences.indices(total)), dtype=torch.int64)
    else:
        index = torch.as_tensor(sequences, dtype=torch.int64).cpu()
    if index.ndim != 1 or len(index) == 0:
        raise ValueError(f"expected at least one sequence of {total}, got {sequences}")
    if bool(((index < -total) | (index >= total)).any()):
        raise IndexError(f"expected sequences from 0 to {total - 1}, got {int(index.min())} to {int(index.max())}")
    start, stop, step = frames.indices(num_frames)
    if step < 1 or start >= stop:
        raise ValueError(f"expected frames in order, at least one of {num_frames}, got {frames}")
    last = range(start, stop, step)[-1]
    index = index % total
    return Windows(index, torch.full_like(index, start), last - start + 1), step


class Run(NamedTuple):
    """Neighbours in a batch that are neighbours in the file, with the same window: one reading does for them.

    Attributes:
        first: place of the first of them in the batch.
        last: place after the last of them in the batch.
        sequence: the first of them in the file.
        start: the first frame of their window.
    """

    first: int
    last: int
    sequence: int
    start: int


def runs(windows: Windows) -> list[Run]:
    """The windows of a batch, put together to as few readings as can be; reads the indices from their device."""
    found: list[Run] = []
    both = zip(windows.sequences.tolist(), windows.starts.tolist(), strict=True)
    for place, (sequence, start) in enumerate(both):
        run = found[-1] if found else None
        if run is not None and sequence == run.sequence + (place - run.first) and start == run.start:
            found[-1] = run._replace(last=place + 1)
        else:
            found.append(Run(place, place + 1, sequence, start))
    return found
