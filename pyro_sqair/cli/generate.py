# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""What the commands that make sequences have in common: a folder with one file for each split."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pyro_sqair.data import Source, write_sequences
from pyro_sqair.data.randomness import derive_seed


class Split(NamedTuple):
    """A file to make.

    Attributes:
        name: of the file, less its suffix.
        sequences: how many it holds.
        source: makes the source they are drawn from.
        parameters: what the file says of how it was made, as JSON-able settings.
    """

    name: str
    sequences: int
    source: Callable[[], Source]
    parameters: Mapping[str, Any]


def write_splits(out: Path, splits: list[Split], generator: str, length: int, seed: int, overwrite: bool) -> None:
    """Writes one file for each split that is to hold any sequences.

    Each split draws with a seed of its own, derived from `seed` and its name: no seed makes for one split what
    another makes for another.

    Args:
        out: the folder.
        splits: what to write.
        generator: what the files say of who made them.
        length: frames in each sequence, T.
        seed: of all draws.
        overwrite: whether files that exist may be replaced.

    Raises:
        ValueError: if a number is too small.
        FileExistsError: if a file exists and may not be replaced; nothing has been written then.
        NotADirectoryError: if `out` is a file.
    """
    if length < 1 or min(split.sequences for split in splits) < 0 or seed < 0:
        counts = {split.name: split.sequences for split in splits}
        raise ValueError(
            f"expected length >= 1, numbers of sequences >= 0 and seed >= 0, got {length}, {counts}, {seed}"
        )
    wanted = [split for split in splits if split.sequences]
    if not wanted:
        raise ValueError(f"expected sequences to make, got none for {', '.join(split.name for split in splits)}")
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"expected a folder to write to, got a file: {out}")
    if not overwrite and (there := [path for s in wanted if (path := out / f"{s.name}.h5").exists()]):
        raise FileExistsError(f"expected no such files, found {', '.join(map(str, there))}; --overwrite replaces them")
    sources = [split.source() for split in wanted]  # a digit file that is missing shows now
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


def settings(config: Any) -> dict[str, Any]:
    """The fields of a configuration, for a file's parameters."""
    return dataclasses.asdict(config)
