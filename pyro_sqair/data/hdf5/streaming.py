# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""From a source to a file, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pyro_sqair.data.hdf5.sequence_file import SequenceWriter, check_free
from pyro_sqair.data.sequences import Sequences, Source, draw_chunks


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
    """Streams sequences from a source to a file, in bounded memory; the file holds `held_out(source, n, length, seed)`.

    Args:
        path: the file to make; nothing of it is left if this fails or is interrupted.
        source: draws the sequences.
        n: how many.
        length: frames in each.
        seed: of the draws: the same seed gives the same content.
        generator: the name of the source.
        parameters: of the source; JSON-able.
        overwrite: whether a file that is there may be replaced.
        progress: whether to show how far it is and how long it will take.

    Raises:
        FileExistsError: if `path` is there and `overwrite` is False; nothing has been drawn then.
        ValueError: if `n` or `length` is below 1, or the parameters are not JSON-able.
        OSError: if the disk is full.
    """
    write_batches(
        path,
        draw_chunks(source, n, length, seed),
        n,
        generator=generator,
        seed=seed,
        parameters=parameters,
        overwrite=overwrite,
        progress=progress,
    )


def write_batches(
    path: str | os.PathLike[str],
    batches: Iterable[Sequences],
    n: int,
    *,
    generator: str,
    seed: int | None,
    parameters: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> None:
    """Writes batches as they come to a file that is like the first of them in sizes and physics.

    Args:
        path: the file to make; nothing of it is left if this fails or is interrupted.
        batches: what to write; at least one, each of any size.
        n: how many sequences will come in all, for the progress bar.
        generator: the name of what makes them.
        seed: of the draws; None where nothing is drawn.
        parameters: of the generator; JSON-able.
        overwrite: whether a file that is there may be replaced.
        progress: whether to show how far it is and how long it will take.

    Raises:
        FileExistsError: if `path` is there and `overwrite` is False; no batch has been asked for then.
        ValueError: if there is no batch, they are not alike, or the parameters are not JSON-able.
        OSError: if the disk is full.
    """
    check_free(Path(path), overwrite)
    remaining = iter(batches)
    batch = next(remaining, None)
    if batch is None:
        raise ValueError(f"expected at least one sequence for {path}, got none")
    num_frames, _, channels, height, width = batch.frames.shape
    with (
        SequenceWriter(
            path,
            num_frames=num_frames,
            image_size=(height, width),
            channels=channels,
            max_objects=batch.labels.shape[1],
            generator=generator,
            seed=seed,
            parameters=parameters,
            physics=batch.physics is not None,
            overwrite=overwrite,
        ) as writer,
        tqdm(total=n, unit="sequence", disable=not progress, dynamic_ncols=True, desc=Path(path).name) as bar,
    ):
        while batch is not None:
            writer.append(batch)
            bar.update(batch.labels.shape[0])
            batch = None  # the next one is made when this one is gone, so that memory holds one at a time
            batch = next(remaining, None)
