# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The run's diary: one JSON object a line, which a resumed run continues as if never interrupted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from pyro_sqair.data.atomic import atomic_path


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log, in order; a last line that a crash cut short is left out.

    Raises:
        ValueError: names the line that is no record, if another than the last.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ValueError(f"expected one JSON object a line, got {line!r} in {path}:{number}") from error
    return records


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Adds a line. Numbers that JSON cannot write, NaN and ±∞, become null."""
    line = json.dumps({k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()})
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def truncate_log(path: Path, step: int) -> None:
    """Drops what was logged after `step`, so that a run resumed from there does not log it twice."""
    records = read_log(path) if path.exists() else []
    kept = [json.dumps(record) + "\n" for record in records if record["step"] <= step]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")
