# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Opening a file by what is in it: ours, or R-NEM's."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from pyro_sqair.data.hdf5.dataset import SequenceDataset
from pyro_sqair.data.hdf5.hdf5_handle import open_hdf5
from pyro_sqair.data.hdf5.rnem import RNEM_SPLITS, RNEMDataset


def is_rnem(path: str | os.PathLike[str]) -> bool:
    """Whether this HDF5 file has R-NEM's parts, and is none of ours.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no HDF5 file, or a damaged one.
    """
    with open_hdf5(Path(path)) as file:
        return "format" not in file.attrs and any(split in file for split in RNEM_SPLITS)


def open_sequences(
    path: str | os.PathLike[str],
    split: str = "training",
    in_memory: bool = False,
    device: torch.device | str = "cpu",
) -> SequenceDataset | RNEMDataset:
    """The sequences of a file of either kind.

    Args:
        path: the file.
        split: which part of a file of R-NEM's; a file of ours has none.
        in_memory: see `SequenceDataset`; a file of R-NEM's is always read as it is needed.
        device: where the sequences are given out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no file of sequences; the message says what is wrong with it.
    """
    if is_rnem(path):
        return RNEMDataset(path, split, device=device)
    return SequenceDataset(path, in_memory, device)
