# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Reading files of sequences: from disk as they are needed, or all in memory."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import h5py
import numpy as np
import torch
from torch import Tensor

from pyro_sqair.data.hdf5.hdf5_handle import Hdf5Handle
from pyro_sqair.data.hdf5.sequence_format import FIELDS, PHYSICS, Layout, read_layout
from pyro_sqair.data.hdf5.windows import Windows, chosen_windows, random_windows, runs
from pyro_sqair.data.pixels import from_uint8
from pyro_sqair.data.sequences import Physics, Sequences


class SequenceDataset:
    """The sequences of a file: a `Source` to train on, a `torch.utils.data.Dataset`, and a reader.

    The file may be larger than memory: only what is asked for is read. Every process opens it for itself, so workers
    of a DataLoader, forked or spawned, are safe:

        DataLoader(SequenceDataset("train.h5"), batch_size=32, shuffle=True, collate_fn=Sequences.cat, num_workers=2)

    Args:
        path: a file that `SequenceWriter` made, or another program, as docs/data.md says.
        in_memory: whether to read everything now and keep it on `device`, pixels as bytes; faster, above all for a GPU.
        device: where the sequences are given out, and where generators must live.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a complete file of sequences; the message says what is wrong with it.
    """

    def __init__(
        self, path: str | os.PathLike[str], in_memory: bool = False, device: torch.device | str = "cpu"
    ) -> None:
        self.path = Path(path)
        self.device = torch.device(device)
        self._handle = Hdf5Handle(path)
        self.layout: Layout = read_layout(self._handle.open(), self.path)
        on_disk = _OnDisk(self._handle, self.layout)
        self._storage: _Storage = _InMemory(on_disk, self.device) if in_memory else on_disk
        self._handle.close()

    def __len__(self) -> int:
        return self.layout.sequences

    def __getitem__(self, index: int) -> Sequences:
        """One whole sequence, as a batch of one: `Sequences.cat` makes batches of them."""
        return self.read([index])

    @property
    def num_frames(self) -> int:
        """T, frames in each sequence."""
        return self.layout.num_frames

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the frames, pixels."""
        return self.layout.height, self.layout.width

    @property
    def channels(self) -> int:
        """C."""
        return self.layout.channels

    @property
    def max_objects(self) -> int:
        """M, the most objects in a sequence."""
        return self.layout.max_objects

    @property
    def generator(self) -> str:
        """The name of what made the sequences."""
        return self.layout.generator

    @property
    def seed(self) -> int | None:
        """Of the draws that made the sequences; None where nothing was drawn."""
        return self.layout.seed

    @property
    def parameters(self) -> dict[str, Any]:
        """Of the generator."""
        return self.layout.parameters

    def sample(self, batch: int, length: int, generator: torch.Generator) -> Sequences:
        """Draws a batch to train on: random sequences, and a random window of each.

        No sequence comes twice in a batch, unless there are fewer than `batch`. All windows of `length` frames are
        equally likely, so that a curriculum that begins with few frames sees all of every sequence. The same
        generator state gives the same batch, in memory or not.

        Args:
            batch: B.
            length: frames in each window, at most `num_frames`.
            generator: of the draws, on `device`.

        Raises:
            ValueError: if `batch` or `length` is below 1, `length` is more than there is, or the generator is on
                another device.
        """
        windows = random_windows(len(self), self.num_frames, batch, length, generator, self.device)
        return self._sequences(windows)

    def read(self, sequences: slice | list[int] | Tensor = slice(None), frames: slice = slice(None)) -> Sequences:
        """Chosen sequences, in the order asked for.

        Args:
            sequences: which ones: a slice, or indices, of which negative ones count from the end.
            frames: which frames of each.

        Raises:
            IndexError: if there is no such sequence.
            ValueError: if no sequence or no frame is chosen, or frames are asked for backwards.
        """
        windows, step = chosen_windows(len(self), self.num_frames, sequences, frames)
        read = self._sequences(windows)
        return read if step == 1 else read.slice(frames=slice(None, None, step))

    def close(self) -> None:
        """Lets go of the file; reading again opens it again."""
        self._handle.close()

    def __enter__(self) -> SequenceDataset:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        height, width = self.image_size
        return (
            f"SequenceDataset({str(self.path)!r}: {len(self)} sequences of {self.num_frames} frames, "
            f"{height}x{width}x{self.channels}, at most {self.max_objects} objects, by {self.generator})"
        )

    def _sequences(self, windows: Windows) -> Sequences:
        batch = {}
        for name, field in self.layout.fields.items():
            values = self._storage.read(name, windows).to(self.device)
            values = values.transpose(0, 1) if "T" in field.axes else values
            batch[name] = from_uint8(values.movedim(-1, 2)) if name == "frames" else values.contiguous()
        physics = Physics._make(batch[name] for name in PHYSICS) if self.layout.physics else None
        return Sequences._make([*(batch[name] for name in FIELDS), physics])


class _Storage(Protocol):
    def read(self, name: str, windows: Windows) -> Tensor:
        """One field, [B, length, ...]; [B, ...] for one that has no frames."""
        ...


class _OnDisk:
    """Reads what is asked for from the file."""

    def __init__(self, handle: Hdf5Handle, layout: Layout) -> None:
        self._handle = handle
        self._layout = layout

    def read(self, name: str, windows: Windows) -> Tensor:
        field = self._layout.fields[name]
        dataset = self._handle.open()[name]
        leading = (len(windows.sequences), windows.length) if "T" in field.axes else (len(windows.sequences),)
        rest = dataset.shape[len(leading) :]
        out = np.empty((*leading, *rest), dataset.dtype)
        # HDF5's own calls: h5py's indexing takes four times as long, and a batch needs hundreds of them.
        stored = dataset.id.get_space()
        for run in runs(windows):
            begin = (run.sequence, run.start)[: len(leading)] + (0,) * len(rest)
            count = (run.last - run.first, *leading[1:], *rest)
            stored.select_hyperslab(begin, count)
            try:
                dataset.id.read(h5py.h5s.create_simple(count), stored, out[run.first : run.last])
            except OSError as error:
                raise ValueError(
                    f"expected readable {name} of sequences {run.sequence} to {run.sequence + count[0] - 1} in "
                    f"{self._handle.path}, got damaged ones: {error}"
                ) from error
        values = torch.from_numpy(out)
        return values.bool() if field.dtype == "bool" else values


class _InMemory:
    """Holds every field on a device, as the file does: sequence first, pixels as bytes."""

    def __init__(self, on_disk: _OnDisk, device: torch.device) -> None:
        layout = on_disk._layout
        index = torch.arange(layout.sequences)
        everything = Windows(index, torch.zeros_like(index), layout.num_frames)
        self._timed = {name: "T" in field.axes for name, field in layout.fields.items()}
        self._values = {name: on_disk.read(name, everything).to(device) for name in layout.fields}

    def read(self, name: str, windows: Windows) -> Tensor:
        values, device = self._values[name], self._values[name].device
        rows = windows.sequences.to(device)
        if not self._timed[name]:
            return values[rows]
        frames = windows.starts.to(device)[:, None] + torch.arange(windows.length, device=device)
        return values[rows[:, None], frames]
