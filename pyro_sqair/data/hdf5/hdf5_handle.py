# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""An HDF5 file that each process opens for itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py


class Hdf5Handle:
    """Opens a file for reading when it is first needed, once in every process; can be pickled.

    A handle that a forked process shares with its parent would share the place in the file too, so the child
    opens its own.

    Args:
        path: the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file: h5py.File | None = None
        self._process = -1

    def open(self) -> h5py.File:
        """The open file of this process.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not HDF5, or has been cut short.
        """
        if self._file is None or self._process != os.getpid():
            self.close()
            self._file = open_hdf5(self.path)
            self._process = os.getpid()
        return self._file

    def close(self) -> None:
        """Lets go of the file; `open` opens it again."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_file": None, "_process": -1}


def open_hdf5(path: Path) -> h5py.File:
    """Opens an HDF5 file for reading.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not HDF5, or has been cut short.
    """
    if not path.exists():
        raise FileNotFoundError(f"expected an HDF5 file, found nothing: {path.absolute()}")
    if path.is_dir():
        raise ValueError(f"expected an HDF5 file, got a folder: {path}")
    try:
        return h5py.File(path, "r")
    except PermissionError:
        raise
    except (OSError, RuntimeError) as error:
        if not h5py.is_hdf5(path):
            raise ValueError(f"expected an HDF5 file, got something else: {path}") from error
        if "truncated" in str(error):
            raise ValueError(f"expected a whole HDF5 file, got one that has been cut short: {path}") from error
        raise ValueError(f"expected a readable HDF5 file, got a damaged one: {path}: {error}") from error
