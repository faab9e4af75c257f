# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Fingerprints of files of sequences. They identify the data of a run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tqdm import tqdm

from pyro_sqair.data.files.dataset import StoredSequences
from pyro_sqair.data.files.format import file_state


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
        sha256: of the bytes, hexadecimal.
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
        size, modified = file_state(data.path)
        return cls(size, *sizes, *origin, _sha256(data.path.absolute(), size, modified))


@lru_cache(maxsize=16)
def _sha256(path: Path, size: int, modified: int) -> str:
    """The hash of a file, with a progress bar above 1 GiB. Size and time of modification are keys of the cache."""
    digest = hashlib.sha256()
    bar = tqdm(total=size, desc=f"reading {path.name}", unit="B", unit_scale=True, disable=size <= 2**30, leave=False)
    with path.open("rb") as file, bar:
        while block := file.read(2**24):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()
