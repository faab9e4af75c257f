# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Writing a folder with one file of sequences for each split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pyro_sqair.data import Source, write_sequences
from pyro_sqair.data.files.writer import check_free
from pyro_sqair.data.randomness import derive_seed


class Split(NamedTuple):
    """A file to write.

    Attributes:
        name: name of the file without suffix.
        sequences: number of sequences.
        source: makes the source that draws them.
        parameters: settings of the source; JSON-serialisable.
    """

    name: str
    sequences: int
    source: Callable[[], Source]
    parameters: Mapping[str, Any]


def write_splits(out: Path, splits: list[Split], generator: str, length: int, seed: int, overwrite: bool) -> None:
    """Writes one file for each split with at least one sequence.

    The seed of each split is derived from `seed` and the name of the split, so that splits never share sequences.

    Args:
        out: the folder.
        splits: the files to write.
        generator: name of the generator, stored in the files.
        length: T, frames in each sequence.
        seed: seed of all draws.
        overwrite: whether existing files may be replaced.

    Raises:
        ValueError: if a number is too small.
        FileExistsError: if a file exists and may not be replaced; nothing is written then.
        NotADirectoryError: if `out` is a file.
    """
    if length < 1 or min(split.sequences for split in splits) < 0 or seed < 0:
        counts = {split.name: split.sequences for split in splits}
        raise ValueError(
            f"expected length >= 1, numbers of sequences >= 0 and seed >= 0, got {length}, {counts}, {seed}"
        )
    wanted = [split for split in splits if split.sequences]
    if not wanted:
        raise ValueError(f"expected at least one sequence, got none for {', '.join(split.name for split in splits)}")
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"expected a folder to write to, got a file: {out}")
    for split in wanted:
        check_free(out / f"{split.name}.h5", overwrite)
    sources = [split.source() for split in wanted]  # before writing: a missing file of digits is an error
    for split, source in zip(wanted, sources, strict=True):
        path = out / f"{split.name}.h5"
        write_sequences(
            path,
            source,
            split.sequences,
            length,
            derive_seed(split.name, seed),
            generator=generator,
            parameters={"split": split.name, "seed": seed, **split.parameters},
            overwrite=overwrite,
        )
        print(f"{path}: {split.sequences} sequences of {length} frames, {path.stat().st_size / 1e6:.1f} MB")
