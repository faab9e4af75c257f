# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The log of a run: one JSON object per line. A resumed run continues it as if it had not been interrupted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from pyro_sqair.data.atomic import atomic_path, named_errors

# What a record has at least, by its kind.
_ENTRIES = {
    "train": {"step", "seconds", "length", "bound", "gradient_norm", "learning_rate", "skipped"},
    "validation": {"step", "seconds"},
}


def read_log(path: Path) -> list[dict[str, Any]]:
    """Reads the records of a log, in order; ignores an incomplete last line, as after a crash.

    Raises:
        ValueError: if another line is not a record; names the line.
    """
    records = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                if not line.endswith(b"\n"):
                    break
                record = None
            if not _is_record(record):
                text = line.decode(errors="replace").strip()
                raise ValueError(f"expected a record of training or validation, got {text!r} in {path}:{number}")
            records.append(record)
    return records


def _is_record(value: Any) -> bool:
    if not isinstance(value, dict) or value.get("kind") not in tuple(_ENTRIES):
        return False
    numbers = {name: number for name, number in value.items() if name != "kind"}
    return (
        _ENTRIES[value["kind"]] <= numbers.keys()
        and all(number is None or type(number) in (int, float) for number in numbers.values())
        and type(value["step"]) is int
        and value["step"] >= 0
        and value["seconds"] is not None
    )


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Appends a record. NaN and ±∞, which JSON cannot represent, become null."""
    line = json.dumps({k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()})
    with named_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def truncate_log(path: Path, step: int) -> None:
    """Removes records after `step`, so that a run resumed from there does not log them twice."""
    records = read_log(path) if path.exists() else []
    kept = [json.dumps(record) + "\n" for record in records if record["step"] <= step]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")
