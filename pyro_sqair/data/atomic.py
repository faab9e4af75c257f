# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Files that appear whole or not at all."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary path to write to; when the block ends well, that file takes the place of `path`.

    A reader never sees half a file, and an error in the block leaves what stood at `path` before as it was.

        with atomic_path("runs/demo/metrics.json") as temporary:
            temporary.write_text(json.dumps(metrics))

    Args:
        path: where the file shall stand; its folder is made if it is missing.

    Yields:
        A path in the same folder (a rename is atomic only within one file system) and with the same suffix
        (many writers choose the format by it). The block must create that file.

    Raises:
        FileNotFoundError: if the block ends without having written the file.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")
    try:
        yield temporary
        _flush(temporary)  # else a crash after the rename could leave an empty file under the final name
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":  # elsewhere a folder cannot be opened, and need not be
        _flush(target.parent)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes a JSON file that appears whole or not at all; see :func:`atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _flush(path: Path) -> None:
    """Sends a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
