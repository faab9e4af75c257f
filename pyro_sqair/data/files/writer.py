# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Writing a file of sequences in batches, completely or not at all."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pyro_sqair.data.atomic import atomic_path
from pyro_sqair.data.files.format import FORMAT, VERSION, Layout
from pyro_sqair.data.files.ground_truth import check_ground_truth
from pyro_sqair.data.sequences import Sequences, Source, draw_chunks, require, to_uint8

_SMALL_CHUNK = 16  # sequences in a chunk of the small datasets: few, so that reading one decompresses little
_COMPRESSION = {"compression": "gzip", "compression_opts": 1, "shuffle": False}  # docs/data.md has the reason


class SequenceWriter:
    """Writes sequences to a file, batch by batch; the file appears when the block ends without an error.

        with SequenceWriter("balls.h5") as writer:
            writer.append(sequences)

    The first batch determines the number of frames, the size of the images, the number of channels and objects, and
    whether the file has `collisions`.

    After an error, Ctrl-C or a full disk in the block, `path` is what it was before. A killed process can leave a
    hidden temporary file in the same folder, which readers refuse as incomplete.

    Args:
        path: the file to write.
        generator: name of the program that makes the sequences.
        seed: seed of the random draws; None if there are none.
        parameters: settings of the generator; must be JSON-serialisable.
        overwrite: whether an existing file may be replaced.

    Raises:
        FileExistsError: if `path` exists and `overwrite` is False.
        ValueError: if the parameters are not JSON-serialisable, or the seed does not fit in 64 bits.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        generator: str = "unknown",
        seed: int | None = None,
        parameters: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        self._overwrite = overwrite
        check_free(self.path, overwrite)
        try:
            settings = json.loads(json.dumps(dict(parameters or {}), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(f"expected JSON-serialisable parameters, got {parameters!r}") from error
        require(seed is None or -(2**63) <= seed < 2**63, "a seed that fits in a signed 64-bit integer", seed)
        self._origin = generator, seed, settings
        self._layout: Layout | None = None
        self._context = self._opened()
        self._file: h5py.File | None = None
        self._disk: _DeferredFile | None = None

    def __len__(self) -> int:
        """Sequences written so far."""
        return self._layout.sequences if self._layout else 0

    def __enter__(self) -> SequenceWriter:
        self._context.__enter__()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._context.__exit__(*error)

    def append(self, sequences: Sequences) -> None:
        """Appends a batch of any size.

        Args:
            sequences: frames [T, B, C, H, W] with values k/255 (`pyro_sqair.data.quantise`), on any device; T and all
                sizes but B as in the first batch.

        Raises:
            ValueError: if a shape or type differs from the file's, a size is 0, `collisions` are missing, a pixel is
                not k/255, or the ground truth is not as the format requires. Nothing is written then.
            OSError: if the disk is full.
            RuntimeError: outside the `with` block.
        """
        if self._disk is None:
            raise RuntimeError("expected append inside the block `with SequenceWriter(...) as writer:`, got it outside")
        layout = self._layout or _layout(sequences, self._origin)
        batch = _stored(sequences, layout)
        before = len(self)
        after = before + len(batch["labels"])
        check_ground_truth(batch, range(before, after), self.path)
        with _delayed_interrupt():
            self._file = file = self._file or _created(self._disk, layout)
            for name, values in batch.items():
                file[name].resize(after, axis=0)
                file[name][before:after] = values.numpy()
        self._disk.check()
        self._layout = layout._replace(sequences=after)

    @contextmanager
    def _opened(self) -> Iterator[None]:
        with atomic_path(self.path) as temporary, ExitStack() as stack:
            with _delayed_interrupt():
                self._disk = disk = stack.enter_context(_DeferredFile(temporary, self.path))
            try:
                yield
                if self._file is None:
                    raise ValueError(f"expected at least one sequence for {self.path}, got none")
                with _delayed_interrupt():
                    self._file.flush()
                    self._file.attrs["complete"] = True  # last, so that no unfinished file has it
            finally:
                with _delayed_interrupt():
                    file, self._file, self._disk = self._file, None, None
                    if file is not None:
                        file.close()
            disk.check()
            check_free(self.path, self._overwrite)


def check_free(path: Path, overwrite: bool) -> None:
    """Raises a FileExistsError if `path` exists and may not be overwritten; call it before any work starts."""
    if path.is_dir():
        raise FileExistsError(f"expected the path of a file, got a folder: {path}")
    if path.exists() and not overwrite:
        raise FileExistsError(f"expected an unused path, got the file {path}; overwrite=True (--overwrite) replaces it")


def write_sequences(
    path: str | os.PathLike[str],
    source: Source,
    n: int,
    length: int,
    seed: int,
    *,
    generator: str,
    parameters: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> None:
    """Streams `held_out(source, n, length, seed)` to a file, in bounded memory.

    Args:
        path: the file to write; it is not created if this fails or is interrupted.
        source, n, length, seed: as for `held_out`; the same seed gives the same content.
        generator, parameters, overwrite: as for `SequenceWriter`; `generator` names the source.
        progress: whether to show a progress bar.

    Raises:
        FileExistsError: if `path` exists and `overwrite` is False; nothing has been drawn then.
        ValueError: if `n` or `length` is below 1, or the parameters are not JSON-serialisable.
        OSError: if the disk is full.
    """
    with (
        SequenceWriter(path, generator=generator, seed=seed, parameters=parameters, overwrite=overwrite) as writer,
        tqdm(total=n, unit="sequence", disable=not progress, dynamic_ncols=True, desc=writer.path.name) as bar,
    ):
        for batch in draw_chunks(source, n, length, seed):
            writer.append(batch)
            bar.update(batch.labels.shape[0])
            del batch  # before the next one is drawn, so that memory holds one at a time


def _layout(sequences: Sequences, origin: tuple[str, int | None, dict[str, Any]]) -> Layout:
    """The sizes of a batch, for a file without sequences yet."""
    frames, labels = sequences.frames.shape, sequences.labels.shape
    valid = len(frames) == 5 and len(labels) == 2 and 0 not in (*frames, *labels)
    require(valid, "frames [T, B, C, H, W] and labels [B, M], none empty", f"{list(frames)} and {list(labels)}")
    num_frames, _, channels, height, width = frames
    return Layout(0, num_frames, (height, width), channels, labels[1], sequences.collisions is not None, *origin)


def _created(disk: _DeferredFile, layout: Layout) -> h5py.File:
    """A new file with all attributes except `complete`, and no sequences yet."""
    file = h5py.File(disk, "w", libver="v110")  # from 1.10 on, HDF5's own structures have checksums
    texts = FORMAT, layout.generator, json.dumps(layout.parameters, sort_keys=True, allow_nan=False)
    # Bytes, since HDF5 keeps text of variable length in a heap without a checksum.
    stored = (np.bytes_(text.encode()) for text in texts)
    file.attrs.update(zip(("format", "generator", "parameters"), stored, strict=True))
    file.attrs["version"] = VERSION
    if layout.seed is not None:
        file.attrs["seed"] = np.int64(layout.seed)
    for name, field in layout.fields.items():
        shape = layout.shape(field.axes)
        # Pixels are read one sequence at a time; small chunks would be mostly overhead.
        chunks = (1 if "H" in field.axes else _SMALL_CHUNK, *shape[1:])
        file.create_dataset(name, shape, field.dtype, maxshape=(None, *shape[1:]), chunks=chunks, **_COMPRESSION)
    return file


def _stored(sequences: Sequences, layout: Layout) -> dict[str, Tensor]:
    """A batch of valid shapes, types and pixels as the file stores it: on the CPU, sequence first, pixels as bytes."""
    stored = {}
    layout = layout._replace(sequences=sequences.frames.shape[1] if sequences.frames.ndim > 1 else -1)
    for name, field in layout.fields.items():
        values = getattr(sequences, name)
        require(values is not None, f"sequences with {name}, as this file stores them", "none")
        shape = layout.shape("TnCHW" if name == "frames" else field.axes.replace("nT", "Tn"))
        require(values.shape == shape, f"{name} of shape {list(shape)}", list(values.shape))
        dtype = torch.float32 if name == "frames" else getattr(torch, field.dtype)
        require(values.dtype == dtype, f"{name} of type {dtype}", values.dtype)
        if name == "frames":
            values = to_uint8(values).movedim(2, -1)
        stored[name] = (values if name == "labels" else values.transpose(0, 1)).cpu()
    return stored


class _DeferredFile(io.FileIO):
    """Binary file that defers write errors to `check` and discards what is written after the first one.

    If a write fails, on a full disk for example, HDF5 can no longer close the file and crashes the process at exit.
    """

    def __init__(self, path: Path, final: Path) -> None:
        super().__init__(path, "w+")
        self._final = final
        self._error: OSError | None = None

    def write(self, data: Any, /) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        while rest:
            rest = rest[self._attempt(super().write, rest) or len(rest) :]
        return size

    def truncate(self, size: int | None = None, /) -> int:
        return self._attempt(super().truncate, size)

    def _attempt(self, function: Callable[[Any], int], argument: Any) -> int:
        try:
            return 0 if self._error else function(argument)
        except OSError as error:
            self._error = error
            return 0

    def check(self) -> None:
        """Raises the deferred error, if any, with the name of the final file."""
        if (error := self._error) is not None:
            raise OSError(error.errno, f"{error.strerror}, so this file was not written", str(self._final)) from error

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        """Closes the file; the deferred error replaces those of HDF5, which cannot read what was not written."""
        self.close()
        if kind is not None and issubclass(kind, OSError | RuntimeError):
            self.check()


@contextmanager
def _delayed_interrupt() -> Iterator[None]:
    """Delays Ctrl-C to the end of the block: HDF5 would lose a KeyboardInterrupt raised while it calls Python."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return  # other threads never run signal handlers
    received: list[Any] = []
    signal.signal(signal.SIGINT, lambda *arguments: received.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if received:
            handler(*received[0])
