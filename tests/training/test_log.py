# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

import json
from pathlib import Path

import pytest

from pyro_sqair.training.log import append_record, read_log, truncate_log


def test_records_are_read_in_order_and_non_finite_numbers_as_null(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append_record(path, {"step": 1, "bound": 0.1 + 0.2})
    append_record(path, {"step": 2, "bound": float("nan"), "best": float("inf"), "kind": "train"})
    assert read_log(path) == [
        {"step": 1, "bound": 0.1 + 0.2},
        {"step": 2, "bound": None, "best": None, "kind": "train"},
    ]


def test_truncation_keeps_records_up_to_the_step(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for step in (2, 4, 4, 6):
        append_record(path, {"step": step, "x": step / 3})
    with path.open("a") as file:
        file.write('{"step": 8, "bou')  # an incomplete line, as after a power failure
    assert [record["step"] for record in read_log(path)] == [2, 4, 4, 6]
    truncate_log(path, 4)
    assert path.read_text().splitlines() == [json.dumps({"step": s, "x": s / 3}) for s in (2, 4, 4)]
    truncate_log(path, 0)
    assert path.read_text() == ""
    assert [file.name for file in tmp_path.iterdir()] == ["log.jsonl"]


def test_damaged_line_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"got 'nonsense' in .*log.jsonl:2"):
        truncate_log(path, 1)
    assert "nonsense" in path.read_text()
