# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""One training at a time in the folder of a run."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout


class FolderLock:
    """A context that holds the lock of a folder, the file `.lock` in it; the same object can be entered again inside.

    The system releases the lock when the process ends, even if it is killed; the file itself stays.

    Args:
        folder: created if it is missing.

    Raises:
        BlockingIOError: when entered, if another process or another lock object holds the lock.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, FileLock(folder / ".lock", timeout=0)

    def __enter__(self) -> None:
        try:
            self._lock.acquire()
        except Timeout as error:
            raise BlockingIOError(
                f"expected a folder in which no other process trains, got one in use: {self._folder}"
            ) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
