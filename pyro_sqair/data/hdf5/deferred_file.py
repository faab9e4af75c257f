# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""A file for HDF5 to write to that never fails under it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

_T = TypeVar("_T")


class DeferredFile(io.RawIOBase):
    """A new binary file whose errors wait until `check` asks for them.

    When a write fails under HDF5, on a full disk for one, it can neither close the file nor forget it, and crashes
    the process at its end. So it is told that all went well; after the first error nothing more is written.

    Args:
        path: the file to make.
        name: what to call the file in errors.

    Raises:
        OSError: if the file cannot be made.
    """

    def __init__(self, path: Path, name: Path) -> None:
        super().__init__()
        self._file = open(path, "w+b", buffering=0)
        self._name = name
        self._error: BaseException | None = None

    def check(self) -> None:
        """Raises the first error there was, if any; an OSError names the file."""
        if isinstance(self._error, OSError):
            reason = self._error.strerror or str(self._error)
            raise OSError(self._error.errno, f"{reason}, so this file was not made", str(self._name)) from self._error
        if self._error is not None:
            raise self._error

    def write(self, data: Any, /) -> int:
        """Writes all of the bytes, or takes note of why not."""
        view = memoryview(data).cast("B")
        return self._attempt(lambda: self._write_all(view), len(view))

    def readinto(self, data: Any, /) -> int:
        """Fills the buffer as far as the file goes."""
        return self._attempt(lambda: self._file.readinto(data), 0)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Moves to a place in the file."""
        return self._attempt(lambda: self._file.seek(offset, whence), offset)

    def tell(self) -> int:
        """The place in the file."""
        return self._attempt(self._file.tell, 0)

    def truncate(self, size: int | None = None, /) -> int:
        """Cuts or extends the file."""
        return self._attempt(lambda: self._file.truncate(size), size or 0)

    def flush(self) -> None:
        """Does nothing: what is written goes to the system at once."""

    def readable(self) -> bool:
        """True."""
        return True

    def writable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        super().close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the file and raises what was deferred, unless an error that has another cause is on its way."""
        self.close()
        if error is None or isinstance(error, OSError | RuntimeError):  # HDF5's, at not reading back what it wrote
            self.check()

    def _write_all(self, view: memoryview) -> int:
        done = 0
        while done < len(view):
            done += self._file.write(view[done:])
        return done

    def _attempt(self, action: Callable[[], _T], otherwise: _T) -> _T:
        if self._error is None:
            try:
                return action()
            except BaseException as error:  # of any kind: none must pass through HDF5's C code
                self._error = error
        return otherwise
