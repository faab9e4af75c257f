# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""What a file of sequences holds, version 1: the fields, their types and shapes, the attributes (docs/data.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

FORMAT = "pyro_sqair.sequences"
VERSION = 1


class Field(NamedTuple):
    """One dataset of the file.

    Attributes:
        dtype: numpy's name of its type.
        axes: its shape, a letter an axis: n sequences, T frames, H, W, C of the image, at most M objects; or a digit.
    """

    dtype: str
    axes: str


FIELDS = {
    "frames": Field("uint8", "nTHWC"),
    "count": Field("int64", "nT"),
    "present": Field("bool", "nTM"),
    "boxes": Field("float32", "nTM4"),
    "ids": Field("int64", "nTM"),
    "labels": Field("int64", "nM"),
}
PHYSICS = {
    "positions": Field("float32", "nTM2"),
    "velocities": Field("float32", "nTM2"),
    "collisions": Field("bool", "nTHW"),
    "events": Field("bool", "nT"),
}


class Layout(NamedTuple):
    """The sizes of a file, and where its content comes from.

    Attributes:
        sequences: n, how many there are.
        num_frames: T, in each.
        height: H, pixels.
        width: W, pixels.
        channels: C.
        max_objects: M.
        physics: whether it holds positions, velocities, collisions and events.
        generator: the name of what made the sequences.
        seed: of their draws; None where nothing was drawn.
        parameters: of the generator.
    """

    sequences: int
    num_frames: int
    height: int
    width: int
    channels: int
    max_objects: int
    physics: bool
    generator: str
    seed: int | None
    parameters: dict[str, Any]

    @property
    def fields(self) -> dict[str, Field]:
        """The datasets of this file."""
        return FIELDS | PHYSICS if self.physics else FIELDS

    def shape(self, field: Field) -> tuple[int, ...]:
        """The shape of a dataset of this file."""
        size = dict(zip("nTHWCM", self[:6], strict=True))
        return tuple(size[axis] if axis in size else int(axis) for axis in field.axes)


def write_attributes(file: h5py.File, layout: Layout) -> None:
    """Writes all attributes but `complete`, which says that the file is whole."""
    file.attrs["format"] = FORMAT
    file.attrs["version"] = VERSION
    file.attrs["generator"] = layout.generator
    if layout.seed is not None:
        file.attrs["seed"] = np.int64(layout.seed)
    file.attrs["parameters"] = json.dumps(layout.parameters, sort_keys=True, allow_nan=False)


def read_layout(file: h5py.File, path: Path) -> Layout:
    """The layout of an open file, once everything in it has been found to be what it should be.

    Raises:
        ValueError: if this is not a complete file of sequences of a version known here; it names what is wrong.
    """
    _check_header(file, path)
    for name in FIELDS:
        _dataset(file, name, path)
    shape, labels = file["frames"].shape, file["labels"].shape
    if len(shape) != 5:
        raise ValueError(f"expected frames of shape [n, T, H, W, C] in {path}, got {list(shape)}")
    if len(labels) != 2:
        raise ValueError(f"expected labels of shape [n, M] in {path}, got {list(labels)}")
    if 0 in shape:
        raise ValueError(f"expected at least one sequence, frame and pixel in {path}, got frames {list(shape)}")
    sequences, num_frames, height, width, channels = shape
    layout = Layout(
        sequences=sequences,
        num_frames=num_frames,
        height=height,
        width=width,
        channels=channels,
        max_objects=labels[1],
        physics=any(name in file for name in PHYSICS),
        generator=_text(file.attrs["generator"]),
        seed=_whole_number(file, "seed", path),
        parameters=_parameters(file, path),
    )
    for name, field in layout.fields.items():
        _check_dataset(_dataset(file, name, path), name, field, layout, path)
    return layout


def _check_header(file: h5py.File, path: Path) -> None:
    if "format" not in file.attrs:
        raise ValueError(
            f"expected a file of sequences, got one without the attribute 'format': {path}; it holds "
            f"{', '.join(map(repr, file)) or 'nothing'}"
        )
    if _text(file.attrs["format"]) != FORMAT:
        raise ValueError(f"expected the attribute format={FORMAT!r} in {path}, got {file.attrs['format']!r}")
    version = _whole_number(file, "version", path)
    if version is None or version < 1:
        raise ValueError(f"expected an attribute 'version' of at least 1 in {path}, got {version}")
    if version > VERSION:
        raise ValueError(
            f"expected a file of version {VERSION} or older, got version {version}: {path}; a newer pyro_sqair reads it"
        )
    if not file.attrs.get("complete", False):
        raise ValueError(
            f"expected a complete file, got one whose writer did not come to its end "
            f"(no attribute 'complete'): {path}; delete it and write it again"
        )
    for name in ("generator", "parameters"):
        if name not in file.attrs:
            raise ValueError(f"expected the attribute {name!r} in {path}, got {sorted(file.attrs)}")


def _text(value: Any) -> str:
    """An attribute as text: some tools write bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _whole_number(file: h5py.File, name: str, path: Path) -> int | None:
    value = file.attrs.get(name)
    if value is None or isinstance(value, int | np.integer):
        return None if value is None else int(value)
    raise ValueError(f"expected the attribute {name!r} to be a whole number in {path}, got {value!r}")


def _parameters(file: h5py.File, path: Path) -> dict[str, Any]:
    text = _text(file.attrs["parameters"])
    try:
        parameters = json.loads(text)
    except (TypeError, ValueError):
        parameters = None
    if not isinstance(parameters, dict):
        raise ValueError(f"expected the attribute 'parameters' to be a JSON object in {path}, got {text!r}")
    return parameters


def _dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    if not isinstance(file.get(name), h5py.Dataset):
        raise ValueError(f"expected the dataset {name!r} in {path}, got only {', '.join(map(repr, file))}")
    return file[name]


def _check_dataset(dataset: h5py.Dataset, name: str, field: Field, layout: Layout, path: Path) -> None:
    # A byte does for a truth value: most tools write one.
    accepted = {"bool", "uint8"} if field.dtype == "bool" else {field.dtype}
    if dataset.dtype.name not in accepted:
        raise ValueError(f"expected {name} of type {field.dtype} in {path}, got {dataset.dtype.name}")
    if dataset.shape != layout.shape(field):
        axes = ", ".join(field.axes)
        raise ValueError(
            f"expected {name} of shape [{axes}] = {list(layout.shape(field))} in {path}, got {list(dataset.shape)}"
        )
