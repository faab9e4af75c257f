# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""The file format, version 1: datasets with their types and shapes, and attributes (docs/data.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from pyro_sqair.data.sequences import require

FORMAT = "pyro_sqair.sequences"
VERSION = 1


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


def open_hdf5(path: Path) -> h5py.File:
    """Opens an HDF5 file for reading.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not HDF5, truncated or damaged.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise FileNotFoundError(f"expected an HDF5 file, found {found}: {path.absolute()}")
    try:
        return h5py.File(path, "r")
    except PermissionError:
        raise
    except (OSError, RuntimeError) as error:
        if not h5py.is_hdf5(path):
            raise ValueError(f"expected an HDF5 file, got another format: {path}") from error
        state = "truncated" if "truncated" in str(error) else "damaged"
        raise ValueError(f"expected a complete HDF5 file, got a {state} one: {path}: {error}") from error


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

    datasets = {name: file[name] for name in FIELDS if isinstance(file.get(name), h5py.Dataset)}
    for name in FIELDS:
        optional = name == "collisions" and name not in file
        require(optional or name in datasets, f"the dataset {name!r} in {path}", f"only {list(file)}")
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
    return layout
