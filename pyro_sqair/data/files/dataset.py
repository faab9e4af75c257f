# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Reading files of sequences: on demand from the file, or from memory."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from pyro_sqair.data.files.format import Layout, open_hdf5, read_layout, reading
from pyro_sqair.data.files.ground_truth import GROUND_TRUTH, check_ground_truth
from pyro_sqair.data.sequences import Sequences, check_draw, from_uint8, require

_CHECKED = 64  # sequences whose ground truth is checked when a file is opened
_PIECE = 2**22  # counts read at a time
_SHARE = 0.8  # largest part of the memory for the sequences of a file


class StoredSequences(ABC):
    """The sequences of a file of either format: a `Source` to train on, and a reader.

    Attributes:
        path: the file.
        layout: sizes and origin of the file.
        most_objects: the most objects in any frame; an upper bound for R-NEM's files. None if not annotated.
        device: where sequences are returned, and where generators must be.
    """

    path: Path
    layout: Layout
    most_objects: int | None
    device: torch.device

    def __len__(self) -> int:
        return self.layout.sequences

    def sample(self, batch: int, length: int, generator: torch.Generator) -> Sequences:
        """Draws random sequences, and a random window of consecutive frames of each.

        No sequence occurs twice in a batch, unless there are fewer than `batch`; each then occurs equally often, up to
        one. All windows are equally likely, so that training on short windows uses all frames. The same state of the
        generator gives the same batch, from the file or from memory.

        Args:
            batch: B.
            length: frames in each window, at most T.
            generator: source of randomness, on `device`.

        Raises:
            ValueError: if `batch` or `length` is below 1, `length` exceeds T, or the generator is on another device.
        """
        total, num_frames = self.layout[:2]
        check_draw(self, batch, length, generator)
        require(length <= num_frames, f"a length of at most {num_frames}, the frames in a sequence", length)
        rounds = [torch.randperm(total, generator=generator, device=self.device) for _ in range(-(-batch // total))]
        starts = torch.randint(num_frames - length + 1, (batch,), generator=generator, device=self.device)
        return self._load(torch.cat(rounds)[:batch], starts, length)

    def read(self, sequences: slice | list[int] | Tensor = slice(None), frames: slice = slice(None)) -> Sequences:
        """Selected sequences, in the given order.

        Args:
            sequences: a slice, or indices, of which negative ones count from the end.
            frames: the frames of each.

        Raises:
            IndexError: if there is no such sequence.
            ValueError: if no sequence or no frame is selected, or the step of `frames` is negative.
        """
        total, num_frames = self.layout[:2]
        if isinstance(sequences, slice):
            index = torch.tensor(range(*sequences.indices(total)), dtype=torch.int64)
        else:
            index = torch.as_tensor(sequences, dtype=torch.int64).cpu()
        require(index.ndim == 1 and len(index), f"at least one sequence of {total}", sequences)
        if bool(((index < -total) | (index >= total)).any()):
            raise IndexError(f"expected sequences from 0 to {total - 1}, got {int(index.min())} to {int(index.max())}")
        start, stop, step = frames.indices(num_frames)
        require(step > 0 and start < stop, f"at least one of {num_frames} frames, in order", frames)
        window = self._load(index % total, torch.full_like(index, start), stop - start)
        return window.slice(frames=slice(None, None, step))

    @abstractmethod
    def _load(self, index: Tensor, starts: Tensor, length: int) -> Sequences:
        """Windows of `length` frames that start at frames `starts` [B] of the sequences `index` [B]."""


class SequenceDataset(StoredSequences):
    """A file of sequences: a `Source` to train on, a `torch.utils.data.Dataset`, and a reader.

    Unless `in_memory`, only what is requested is read, so that the file may be larger than memory. Each read opens the
    file, so that worker processes of a DataLoader are safe:

        DataLoader(SequenceDataset("train.h5"), batch_size=32, shuffle=True, collate_fn=Sequences.cat, num_workers=2)

    The ground truth is checked here: that of 64 evenly spaced sequences, or of all of them if `in_memory`.

    Args:
        path: a file written by `SequenceWriter`, or by another program as docs/data.md describes.
        in_memory: whether to read everything now and keep it on `device`, pixels as bytes; faster, above all on a GPU.
        device: where sequences are returned, and where generators must be.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a complete file of sequences, its ground truth is wrong, or it is `in_memory` and too
            large; the message names the problem.
    """

    def __init__(
        self, path: str | os.PathLike[str], in_memory: bool = False, device: torch.device | str = "cpu"
    ) -> None:
        self.path, self.device = Path(path), torch.device(device)
        with open_hdf5(self.path) as file:
            self.layout = read_layout(file, self.path)
            self.most_objects = _most_objects(file["count"], self.layout, self.path)
        if in_memory:
            _check_size(self.layout, self.device, self.path)
        number = len(self) if in_memory else min(len(self), _CHECKED)
        index = np.linspace(0, len(self) - 1, number, dtype=np.int64).tolist()
        names = tuple(self.layout.fields) if in_memory else GROUND_TRUTH
        stored = self._read(index, [0] * number, self.layout.num_frames, names)
        check_ground_truth(stored, index, self.path)
        self._memory = stored if in_memory else None

    def __getitem__(self, index: int) -> Sequences:
        """One whole sequence, as a batch of one: `Sequences.cat` joins them."""
        return self.read([index])

    def _load(self, index: Tensor, starts: Tensor, length: int) -> Sequences:
        if self._memory is None:
            batch = self._read(index.tolist(), starts.tolist(), length, tuple(self.layout.fields))
        else:
            rows = index.to(self.device)
            times = starts.to(self.device)[:, None] + torch.arange(length, device=self.device)
            batch = {
                name: stored[rows] if name == "labels" else stored[rows[:, None], times]
                for name, stored in self._memory.items()
            }
        labels, frames = batch.pop("labels"), from_uint8(batch.pop("frames").transpose(0, 1).movedim(-1, 2))
        timed = {name: value.transpose(0, 1).contiguous() for name, value in batch.items()}
        return Sequences(frames=frames, labels=labels, **timed)

    def _read(self, index: list[int], starts: list[int], length: int, names: tuple[str, ...]) -> dict[str, Tensor]:
        """Fields of windows as the file stores them, sequence first, on the device."""
        stored = {}
        with open_hdf5(self.path) as file:
            for name in names:

                def select(rows: slice, start: int, dataset: h5py.Dataset = file[name]) -> np.ndarray:
                    return dataset[rows, start : start + length] if dataset.name != "/labels" else dataset[rows]

                with reading(name, self.path):
                    values = gather(select, index, starts)
                stored[name] = values.bool() if self.layout.fields[name].dtype == "bool" else values
        return {name: values.to(self.device) for name, values in stored.items()}


def _most_objects(count: h5py.Dataset, layout: Layout, path: Path) -> int | None:
    """The largest count in a file; None if no frame is annotated."""
    rows = max(1, _PIECE // layout.num_frames)
    pieces = (count[start : start + rows] for start in range(0, layout.sequences, rows))
    with reading("count", path):
        ranges = [(int(piece.min()), int(piece.max())) for piece in pieces]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    valid = low >= -1 and high <= layout.max_objects
    require(valid, f"count from -1 to {layout.max_objects}, the objects in {path}", f"{low} to {high}")
    return None if high == -1 else high


def _check_size(layout: Layout, device: torch.device, path: Path) -> None:
    """Raises a ValueError if the sequences of a file do not fit into memory."""
    fields = layout.fields.values()
    needed = sum(math.prod(layout.shape(field.axes)) * np.dtype(field.dtype).itemsize for field in fields)
    limits = []
    if os.name == "posix":  # other systems do not tell
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    if device.type == "cuda":
        limits.append(torch.cuda.mem_get_info(device)[1])
    for limit in limits:
        expected = f"at most {_SHARE * limit / 1e9:.1f} GB of sequences to hold in memory, {_SHARE:.0%} of it"
        advice = "in_memory=False (--no-in-memory) reads them from the file when needed"
        require(needed <= _SHARE * limit, expected, f"{needed / 1e9:.1f} GB in {path}; {advice}")


def gather(select: Callable[[slice, int], np.ndarray], index: list[int], starts: list[int]) -> Tensor:
    """Concatenates windows `select(sequences, start)`; consecutive sequences with equal starts are read at once."""
    first, batch = index[0], len(index)
    if index == list(range(first, first + batch)) and starts.count(starts[0]) == batch:
        values = select(slice(first, first + batch), starts[0])
    else:
        values = np.concatenate([select(slice(n, n + 1), start) for n, start in zip(index, starts, strict=True)])
    return torch.from_numpy(values.astype(values.dtype.newbyteorder("="), copy=False))  # a file may be big-endian
