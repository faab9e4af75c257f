# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""The file format, version 1: datasets with their types and shapes, and attributes (docs/data.md)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from pyro_sqair.data.sequences import require

FORMAT = "pyro_sqair.sequences"
VERSION = 1
_HDF5_ERRORS = (KeyError, OSError, RuntimeError, TypeError, ValueError)  # what h5py raises for damaged files


class Field(NamedTuple):
    """A dataset: NumPy's name of its type; its axes, letters (n sequences, T frames, H, W, C, M objects) or lengths."""

    dtype: str
    axes: str


FIELDS = {
    "frames": Field("uint8", "nTHWC"),
    "count": Field("int64", "nT"),
    "present": Field("bool", "nTM"),
    "boxes": Field("float32", "nTM4"),
    "ids": Field("int64", "nTM"),
    "labels": Field("int64", "nM"),
    "collisions": Field("bool", "nTHW"),  # the only optional one
}


class Layout(NamedTuple):
    """The sizes of a file and the origin of its content.

    Attributes:
        sequences: n, number of sequences.
        num_frames: T, frames in each sequence.
        image_size: H and W, pixels.
        channels: C.
        max_objects: M, the most objects in a sequence.
        collisions: whether the file has the pixels of colliding objects.
        generator: name of the program that made the sequences.
        seed: seed of the random draws; None if there were none.
        parameters: settings of the generator.
    """

    sequences: int
    num_frames: int
    image_size: tuple[int, int]
    channels: int
    max_objects: int
    collisions: bool
    generator: str
    seed: int | None
    parameters: dict[str, Any]

    @property
    def fields(self) -> dict[str, Field]:
        """The datasets of this file."""
        return {name: field for name, field in FIELDS.items() if self.collisions or name != "collisions"}

    def shape(self, axes: str) -> tuple[int, ...]:
        """The lengths of axes, given as in `Field`."""
        sizes = self.sequences, self.num_frames, *self.image_size, self.channels, self.max_objects
        size = dict(zip("nTHWCM", sizes, strict=True))
        return tuple(size[axis] if axis in size else int(axis) for axis in axes)


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Opens an HDF5 file for reading. Errors of h5py in the block, too, are replaced by one that names the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not HDF5, truncated or damaged.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise FileNotFoundError(f"expected an HDF5 file, found {found}: {path.absolute()}")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except PermissionError:
        raise
    except _HDF5_ERRORS as error:
        if _names(error, path):
            raise
        if not h5py.is_hdf5(path):
            raise ValueError(f"expected an HDF5 file, got another format: {path}") from error
        state = "truncated" if "truncated" in str(error) else "damaged"
        raise ValueError(f"expected a complete HDF5 file, got a {state} one: {path}: {error}") from error


@contextmanager
def reading(name: str, path: Path) -> Iterator[None]:
    """Replaces errors of h5py in the block by a ValueError that names the file and the dataset that it reads."""
    try:
        yield
    except _HDF5_ERRORS as error:
        if _names(error, path):
            raise
        raise ValueError(f"expected readable {name} in {path}, got damaged data: {error}") from error


def _names(error: Exception, path: Path) -> bool:
    """Whether an error is one of ours: those that h5py raises for an open file do not name it."""
    return isinstance(error, ValueError) and str(path) in str(error)


def stored_dataset(group: h5py.Group, name: str, path: Path) -> h5py.Dataset:
    """A dataset whose values are in this file.

    Links, virtual datasets and external storage are refused: a virtual dataset without its source reads as zeros.

    Raises:
        ValueError: if there is no such dataset, or it is not numeric; the message names it.
    """
    full, link = f"{group.name}/{name}".strip("/"), group.get(name, getlink=True)
    require(link is not None, f"the dataset {full!r} in {path}", f"only {list(group)}")
    require(isinstance(link, h5py.HardLink), f"the dataset {full!r} itself in {path}", f"a link: {type(link).__name__}")
    with reading(full, path):
        dataset = group[name]
        require(isinstance(dataset, h5py.Dataset), f"the dataset {full!r} in {path}", "a group or a type")
        own = not dataset.is_virtual and not dataset.external
        require(own, f"the values of {full!r} in {path} itself", "a virtual dataset, or values in an external file")
        require(dataset.dtype.kind in "biuf", f"{full} of a numeric type in {path}", dataset.dtype)
    return dataset


def check_written(dataset: h5py.Dataset, path: Path) -> None:
    """Raises a ValueError if a part of a dataset was never written. It reads as zeros: frames would be black."""
    if dataset.chunks is None:
        unit, written, needed = "bytes", dataset.id.get_storage_size(), dataset.nbytes
    else:
        grid = (-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True))
        unit, written, needed = "chunks", dataset.id.get_num_chunks(), math.prod(grid)
    require(written >= needed, f"{needed} written {unit} of {dataset.name.strip('/')!r} in {path}", written)


def read_layout(file: h5py.File, path: Path) -> Layout:
    """Validates an open file and returns its layout.

    Raises:
        ValueError: if this is not a complete file of sequences of a supported version; the message names the problem.
    """
    known = ("format", "version", "complete", "generator", "parameters", "seed")
    attributes = {name: file.attrs[name] for name in known if name in file.attrs}
    for name, value in attributes.items():
        attributes[name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    require("format" in attributes, f"a file of sequences, with the attribute 'format', in {path}", list(file))
    found, version, supported = attributes["format"], attributes.get("version"), list(range(1, VERSION + 1))
    require(found == FORMAT, f"the attribute format={FORMAT!r} in {path}", repr(found))
    require(version in supported, f"a version in {supported} in {path}", f"{version!r}; is pyro_sqair up to date?")
    unfinished = "one whose writing was interrupted (no attribute 'complete'): delete it and write it again"
    require(attributes.get("complete", False), f"a complete file in {path}", unfinished)
    for name in ("generator", "parameters"):
        require(name in attributes, f"the attribute {name!r} in {path}", sorted(attributes))
    try:
        parameters = json.loads(attributes["parameters"])
    except (TypeError, ValueError):
        parameters = None
    given, seed = attributes["parameters"], attributes.get("seed")
    require(isinstance(parameters, dict), f"the attribute 'parameters' to be a JSON object in {path}", repr(given))
    integer = isinstance(seed, int | np.integer | None)
    require(integer, f"the attribute 'seed' to be an integer in {path}", repr(seed))

    present = (name for name in FIELDS if name != "collisions" or file.get(name, getlink=True) is not None)
    datasets = {name: stored_dataset(file, name, path) for name in present}
    frames, labels = datasets["frames"].shape, datasets["labels"].shape
    require(len(frames) == 5, f"frames of shape [n, T, H, W, C] in {path}", list(frames))
    require(len(labels) == 2, f"labels of shape [n, M] in {path}", list(labels))
    require(0 not in frames, f"at least one sequence, frame and pixel in {path}", list(frames))
    origin = str(attributes["generator"]), None if seed is None else int(seed), parameters
    sizes = frames[0], frames[1], frames[2:4], frames[4], labels[1]
    layout = Layout(*sizes, "collisions" in datasets, *origin)
    for name, field in layout.fields.items():
        given, shape, axes = datasets[name].shape, layout.shape(field.axes), ", ".join(field.axes)
        require(given == shape, f"{name} of shape [{axes}] = {list(shape)} in {path}", list(given))
        dtype = datasets[name].dtype.name
        valid = dtype == field.dtype or (field.dtype, dtype) == ("bool", "uint8")  # how many programs store bools
        require(valid, f"{name} of type {field.dtype} in {path}", dtype)
    check_written(datasets["frames"], path)  # the others may be left at their fill value, such as -1
    return layout
