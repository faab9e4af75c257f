# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Fingerprints of files of sequences, which tell the data of one run from those of another."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from pyro_sqair.data.files.dataset import StoredSequences

_MOST_HASHED, _BLOCKS = 2**30, 1024  # bytes of a file, and of larger ones the number of blocks


@dataclass(frozen=True)
class Fingerprint:
    """Identifies the content of a file of sequences, wherever the file is.

    Attributes:
        size: of the file, bytes.
        sequences: n, number of sequences.
        num_frames: T, frames in each sequence.
        image_size: H and W, pixels.
        channels: C.
        generator: name of the program that made the sequences.
        seed: seed of the random draws; None if there were none.
        parameters: settings of the generator, a JSON object.
        sha256: of the bytes, hexadecimal. Of a file above 1 GiB only 1024 blocks of 1 MiB are hashed, evenly spaced
            from the first to the last byte, so that starting on a large file takes seconds; a change between the blocks
            is not seen.
    """

    size: int
    sequences: int
    num_frames: int
    image_size: tuple[int, int]
    channels: int
    generator: str
    seed: int | None
    parameters: str
    sha256: str

    @classmethod
    def of(cls, data: StoredSequences) -> Fingerprint:
        """The fingerprint of an open file; of an R-NEM file it depends on the split."""
        layout = data.layout
        # The layout of an R-NEM file has its name, which may change.
        parameters = {name: value for name, value in layout.parameters.items() if name != "file"}
        sizes = layout.sequences, layout.num_frames, layout.image_size, layout.channels
        origin = layout.generator, layout.seed, json.dumps(parameters, sort_keys=True)
        return cls(data.path.stat().st_size, *sizes, *origin, _sha256(data.path))


def _sha256(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _MOST_HASHED:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest, length = hashlib.sha256(), _MOST_HASHED // _BLOCKS
        for block in range(_BLOCKS):
            file.seek(block * (size - length) // (_BLOCKS - 1))
            digest.update(file.read(length))
    return digest.hexdigest()
