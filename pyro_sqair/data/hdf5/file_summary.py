# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""What a file of sequences holds, in a few lines."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from pyro_sqair.data.hdf5.hdf5_handle import open_hdf5
from pyro_sqair.data.hdf5.sequence_format import Layout, read_layout

_ROWS = 10_000


class FileSummary(NamedTuple):
    """What a file holds; `str` of it is a table for people.

    Attributes:
        path: the file.
        version: of the format.
        layout: its sizes, generator, seed and parameters.
        count_histogram: how many frames have 0, 1, 2, ... objects; under -1, frames whose objects nobody counted.
        bytes_on_disk: size of the file.
        bytes_unpacked: size of what is in it, and of what `SequenceDataset(in_memory=True)` holds.
    """

    path: Path
    version: int
    layout: Layout
    count_histogram: dict[int, int]
    bytes_on_disk: int
    bytes_unpacked: int

    def __str__(self) -> str:
        layout = self.layout
        frames = sum(self.count_histogram.values())
        counts = (
            f"{'unknown' if count == -1 else count}: {number / frames:.1%}"
            for count, number in self.count_histogram.items()
        )
        objects = f"at most {layout.max_objects}; frames with {', '.join(counts)}"
        rows = {
            "format": f"pyro_sqair sequences, version {self.version}",
            "sequences": f"{layout.sequences:,} of {layout.num_frames} frames",
            "frames": f"{layout.height} x {layout.width} px, {layout.channels} channel{'s' * (layout.channels > 1)}",
            "objects": "nobody counted them" if set(self.count_histogram) == {-1} else objects,
            "physics": "positions, velocities, collisions and events" if layout.physics else "none",
            "generator": layout.generator,
            "seed": "none" if layout.seed is None else str(layout.seed),
            "parameters": json.dumps(layout.parameters),
            "size": f"{_megabytes(self.bytes_on_disk)} on disk, {_megabytes(self.bytes_unpacked)} in memory",
        }
        return "\n".join([str(self.path), *(f"  {name:<11}{value}" for name, value in rows.items())])


def summarise(path: str | os.PathLike[str]) -> FileSummary:
    """Says what a file of sequences holds, without reading its pixels.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a complete file of sequences; the message says what is wrong with it.
    """
    path = Path(path)
    with open_hdf5(path) as file:
        layout = read_layout(file, path)
        return FileSummary(
            path=path,
            version=int(file.attrs["version"]),
            layout=layout,
            count_histogram=_histogram(file["count"]),
            bytes_on_disk=path.stat().st_size,
            bytes_unpacked=sum(file[name].nbytes for name in layout.fields),
        )


def _histogram(dataset: h5py.Dataset) -> dict[int, int]:
    found: dict[int, int] = {}
    for start in range(0, len(dataset), _ROWS):
        values, numbers = np.unique(dataset[start : start + _ROWS], return_counts=True)
        for value, number in zip(values.tolist(), numbers.tolist(), strict=True):
            found[value] = found.get(value, 0) + number
    return dict(sorted(found.items()))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
