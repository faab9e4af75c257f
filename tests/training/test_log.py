# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

import json
from pathlib import Path

import pytest

from pyro_sqair.training.log import append_record, read_log, truncate_log


def record(step: int, **changes: object) -> dict:
    return {"kind": "validation", "step": step, "seconds": 1.5} | changes


def test_records_are_read_in_order_and_non_finite_numbers_as_null(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append_record(path, record(1, bound=0.1 + 0.2))
    append_record(path, record(2, bound=float("nan"), best=float("inf")))
    assert read_log(path) == [record(1, bound=0.1 + 0.2), record(2, bound=None, best=None)]


def test_truncation_keeps_records_up_to_the_step(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for step in (2, 4, 4, 6):
        append_record(path, record(step, x=step / 3))
    with path.open("a") as file:
        file.write('{"step": 8, "bou')  # an incomplete line, as after a power failure
    assert [r["step"] for r in read_log(path)] == [2, 4, 4, 6]
    truncate_log(path, 4)
    assert path.read_text().splitlines() == [json.dumps(record(s, x=s / 3)) for s in (2, 4, 4)]
    truncate_log(path, 0)
    assert path.read_text() == ""
    assert [file.name for file in tmp_path.iterdir()] == ["log.jsonl"]


NO_RECORDS = {
    "text": b"nonsense",
    "empty": b"",
    "not UTF-8": b"\xff\xfe\x00",
    "carriage return": b'{"kind": "train"\r',
    "deep": b"[" * 100_000,
    "number": b"12",
    "null": b"null",
    "list": json.dumps([record(2)]).encode(),
    "no kind": b'{"step": 2, "seconds": 1.5}',
    "no step": b'{"kind": "validation", "seconds": 1.5}',
    "other kind": json.dumps(record(2, kind=["train"])).encode(),
    "no bound": json.dumps(record(2, kind="train")).encode(),
    "no time": json.dumps(record(2, seconds=None)).encode(),
    "negative step": json.dumps(record(-1)).encode(),
    "fractional step": json.dumps(record(2.0)).encode(),
    "true for a step": json.dumps(record(True)).encode(),
    "text for a number": json.dumps(record(2, bound="high")).encode(),
}


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", NO_RECORDS)
def test_complete_lines_that_are_no_records_are_reported(tmp_path: Path, kind: str, last: bool) -> None:
    path, valid = tmp_path / "log.jsonl", json.dumps(record(3)).encode()
    path.write_bytes(b"\n".join([valid, NO_RECORDS[kind], *([] if last else [valid]), b""]))
    before = path.read_bytes()
    for read in (read_log, lambda path: truncate_log(path, 1)):
        with pytest.raises(ValueError, match=r"expected a record of training or validation, got .* in .*log.jsonl:2"):
            read(path)
    assert path.read_bytes() == before
