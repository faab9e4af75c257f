# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Writing a file of sequences: a batch at a time, whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import torch
from torch import Tensor

from pyro_sqair.data.atomic import atomic_path
from pyro_sqair.data.hdf5.deferred_file import DeferredFile
from pyro_sqair.data.hdf5.delayed_interrupt import delayed_interrupt
from pyro_sqair.data.hdf5.sequence_format import FIELDS, PHYSICS, Layout, write_attributes
from pyro_sqair.data.pixels import to_uint8
from pyro_sqair.data.sequences import Sequences

# Sequences in a chunk of the small datasets: few enough that reading one sequence unpacks little.
_SMALL_CHUNK = 16
# Sequences converted at a time, which bounds the memory that a large batch takes.
_SLICE = 32
# The lightest that gzip offers; docs/data.md has what it was measured against.
_COMPRESSION = {"compression": "gzip", "compression_opts": 1, "shuffle": False}


class SequenceWriter:
    """Writes sequences to a file, batch by batch; the file appears when the block ends well.

        with SequenceWriter("balls.h5", num_frames=20, image_size=(64, 64), max_objects=4) as writer:
            writer.append(sequences)

    An error, Ctrl-C or a full disk in the block leaves at `path` what was there before. A killed process can leave a
    hidden temporary file beside it, which no reader takes for a complete one.

    Args:
        path: the file to make.
        num_frames: T, frames in every sequence.
        image_size: height and width, pixels.
        channels: C.
        max_objects: M, the most objects in a sequence.
        generator: the name of what makes the sequences.
        seed: of their draws; None where nothing is drawn.
        parameters: of the generator; must be JSON-able.
        physics: whether the sequences have `physics`, and it is to be kept.
        overwrite: whether a file that is there may be replaced.

    Raises:
        FileExistsError: if `path` is there and `overwrite` is False.
        ValueError: if a size is below 1, the parameters are not JSON-able, or the seed does not fit in 64 bits.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        num_frames: int,
        image_size: tuple[int, int],
        channels: int = 1,
        max_objects: int,
        generator: str = "unknown",
        seed: int | None = None,
        parameters: Mapping[str, Any] | None = None,
        physics: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        self._overwrite = overwrite
        check_free(self.path, overwrite)
        try:
            kept = json.loads(json.dumps(dict(parameters or {}), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(f"expected parameters to be JSON-able, got {parameters!r}") from error
        if seed is not None and not -(2**63) <= seed < 2**63:
            raise ValueError(f"expected a seed that fits in 64 bits with its sign, got {seed}")
        self._layout = Layout(0, num_frames, *image_size, channels, max_objects, physics, generator, seed, kept)
        if min(self._layout[1:6]) < 1:
            raise ValueError(
                "expected num_frames, image_size, channels and max_objects of at least 1, got "
                f"{num_frames}, {tuple(image_size)}, {channels} and {max_objects}"
            )
        self._context = self._opened()
        self._file: h5py.File | None = None
        self._disk: DeferredFile | None = None

    def __len__(self) -> int:
        """Sequences written so far."""
        return self._layout.sequences

    def __enter__(self) -> SequenceWriter:
        self._context.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return self._context.__exit__(kind, error, traceback)

    def append(self, sequences: Sequences) -> None:
        """Writes a batch of any size after those before it.

        Args:
            sequences: frames [T, B, C, H, W] on the grid k/255 (`pyro_sqair.data.quantise`), T and all other sizes as
                the file's; `physics` if the file keeps it. May be on any device.

        Raises:
            ValueError: if a shape or a type is not the file's, a pixel is not k/255, or `count` is neither the number
                of those present nor -1, unknown; nothing of the batch is written then.
            OSError: if the disk is full.
            RuntimeError: outside the `with` block.
        """
        if self._file is None or self._disk is None:
            raise RuntimeError("expected append inside the block `with SequenceWriter(...) as writer:`, got it outside")
        batch = _stored(sequences, self._layout)
        before = len(self)
        after = before + len(batch["labels"])
        with delayed_interrupt():
            for name, values in batch.items():
                self._file[name].resize(after, axis=0)
                self._file[name][before:after] = values.numpy()
        self._disk.check()
        self._layout = self._layout._replace(sequences=after)

    @contextmanager
    def _opened(self) -> Iterator[None]:
        check_free(self.path, self._overwrite)
        with atomic_path(self.path) as temporary:
            with DeferredFile(temporary, self.path) as disk:
                try:
                    with delayed_interrupt():
                        self._file, self._disk = _created(disk, self._layout), disk
                    yield
                    if len(self) == 0:
                        raise ValueError(f"expected at least one sequence for {self.path}, got none")
                    with delayed_interrupt():
                        self._file.flush()
                        self._file.attrs["complete"] = True  # last of all, so that no part of a file ever has it
                finally:
                    with delayed_interrupt():
                        file, self._file, self._disk = self._file, None, None
                        if file is not None:
                            file.close()
            check_free(self.path, self._overwrite)


def check_free(path: Path, overwrite: bool) -> None:
    """Raises a FileExistsError if `path` is there and may not be overwritten; call it before work begins."""
    if path.is_dir():
        raise FileExistsError(f"expected the path of a file, got a folder: {path}")
    if path.exists() and not overwrite:
        raise FileExistsError(f"expected a path where no file is, got {path}; overwrite=True (--overwrite) replaces it")


def _created(disk: DeferredFile, layout: Layout) -> h5py.File:
    """A new file with all attributes but `complete`, and no sequences yet."""
    file = h5py.File(disk, "w")
    write_attributes(file, layout)
    for name, field in layout.fields.items():
        shape = layout.shape(field)
        # Pixels are read a sequence at a time; a chunk of less than some kilobytes would be mostly bookkeeping.
        chunk = 1 if "H" in field.axes else _SMALL_CHUNK
        file.create_dataset(
            name,
            shape=shape,
            maxshape=(None, *shape[1:]),
            chunks=(chunk, *shape[1:]),
            dtype=field.dtype,
            **_COMPRESSION,
        )
    return file


def _stored(sequences: Sequences, layout: Layout) -> dict[str, Tensor]:
    """The batch as the file holds it: on the CPU, sequence first, pixels as bytes; all checked."""
    if layout.physics and sequences.physics is None:
        raise ValueError("expected sequences with physics, as this file keeps it, got some without")
    given = {name: getattr(sequences, name) for name in FIELDS}
    if layout.physics:
        given |= {name: getattr(sequences.physics, name) for name in PHYSICS}
    batch = given["labels"].shape[0] if given["labels"].ndim else -1
    for name, values in given.items():
        field = layout.fields[name]
        expected = layout._replace(sequences=batch).shape(field)
        if name != "labels":
            expected = (expected[1], batch, *expected[2:])
        if name == "frames":
            expected = (*expected[:2], layout.channels, layout.height, layout.width)
        if tuple(values.shape) != expected:
            raise ValueError(f"expected {name} of shape {list(expected)}, got {list(values.shape)}")
        if name != "frames" and values.dtype != getattr(torch, field.dtype):
            raise ValueError(f"expected {name} of type {field.dtype}, got {values.dtype}")
    counted = given["present"].sum(-1)
    if not bool(((given["count"] == counted) | (given["count"] == -1)).all()):
        raise ValueError("expected count to be the number of objects present, or -1 where nobody knows it")
    given["frames"] = torch.cat([to_uint8(part) for part in given["frames"].split(_SLICE, 1)], 1).movedim(2, -1)
    return {name: (values if name == "labels" else values.transpose(0, 1)).cpu() for name, values in given.items()}
