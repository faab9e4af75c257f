# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The log of a run: one JSON object per line. A resumed run continues it as if it had not been interrupted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from pyro_sqair.data.atomic import atomic_path


def read_log(path: Path) -> list[dict[str, Any]]:
    """Reads the records of a log, in order; ignores an incomplete last line, as after a crash.

    Raises:
        ValueError: if another line is not a record; names the line.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ValueError(f"expected one JSON object per line, got {line!r} in {path}:{number}") from error
    return records


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Appends a record. NaN and ±∞, which JSON cannot represent, become null."""
    line = json.dumps({k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()})
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def truncate_log(path: Path, step: int) -> None:
    """Removes records after `step`, so that a run resumed from there does not log them twice."""
    records = read_log(path) if path.exists() else []
    kept = [json.dumps(record) + "\n" for record in records if record["step"] <= step]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")
