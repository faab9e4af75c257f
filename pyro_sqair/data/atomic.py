# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Files that are written completely or not at all."""

import glob
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary path to write to; if the block ends without an error, that file replaces `path`.

    Readers never see a partial file. After an error in the block, `path` is what it was before.

        with atomic_path("runs/demo/metrics.json") as temporary:
            temporary.write_text(json.dumps(metrics))

    Args:
        path: the final path; its folder is created if it is missing.

    Yields:
        A path in the same folder, as a rename is atomic only within one file system, and with the same suffix.

    Raises:
        FileNotFoundError: if the block did not write the file.
        OSError: if writing fails, for example on a full disk; names `path`.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")
    try:
        with named_errors(target, temporary):
            yield temporary
            _flush(temporary)  # else a crash after the rename could leave an empty file under the final name
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":  # other systems cannot open folders
        _flush(target.parent)


@contextmanager
def named_errors(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Names `path` in the block's errors of writing that name no file, as that of a full disk, or name `temporary`."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, temporary and str(temporary)):
            raise
        raise OSError(error.errno, f"{error.strerror}, so this file was not written", str(path)) from error


def remove_temporary_files(paths: Iterable[Path]) -> None:
    """Removes the temporary files of :func:`atomic_path` for these paths, which a killed process leaves behind."""
    for path in paths:
        pattern = f".{glob.escape(path.stem)}.{'[0-9a-f]' * 8}{glob.escape(path.suffix)}"
        for file in path.parent.glob(pattern):
            file.unlink()


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes a JSON file with :func:`atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _flush(path: Path) -> None:
    """Flushes a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
