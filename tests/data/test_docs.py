# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""The code of docs/data.md runs, and its tables match the format."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from pyro_sqair.data import MovingDigits, SequenceDataset, embedded_digits, gentle_motion, held_out
from pyro_sqair.data.files.format import FIELDS, FORMAT, VERSION

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_the_python_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys, assert_same):
    monkeypatch.chdir(tmp_path)
    np.random.seed(0)
    names: dict[str, object] = {}
    blocks = re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 6
    for block in blocks:
        small = re.sub(r"\b\d[\d_]{3,}\b", "12", block)  # large numbers would take minutes
        exec(compile(small, "docs/data.md", "exec"), names)
    shown = capsys.readouterr().out
    assert "torch.Size([10, 32, 1, 50, 50]) torch.Size([10, 32, 2, 4])" in shown and "sequences=300" in shown

    source = MovingDigits(embedded_digits("train"), gentle_motion())
    assert_same(SequenceDataset("digits.h5").read(), held_out(source, 300, 10, 0))
    mine, ours = SequenceDataset("mine.h5"), SequenceDataset("ours.h5")
    assert_same(mine.read(), ours.read())
    assert np.array_equal((ours.read().frames[:, :, 0] * 255).round().numpy(), names["video"][..., 0].swapaxes(0, 1))
    assert torch.equal(names["part"].labels, SequenceDataset("digits.h5").read([5, 2, 299]).labels)


@pytest.mark.parametrize(("name", "field"), FIELDS.items())
def test_every_field_is_in_the_tables(name, field):
    assert f"| `{name}` | {', '.join(field.axes)} | {field.dtype} |" in TEXT


def test_the_attributes_in_the_table_are_those_of_a_file(tmp_path, make_sequences, write):
    with h5py.File(write(tmp_path / "a.h5", make_sequences(1), seed=1)) as file:
        names = set(file.attrs)
    table = TEXT[TEXT.index("| attribute of the file |") : TEXT.index("**Versions.**")]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == names
    assert f"`{FORMAT}`" in table and f"| integer | {VERSION} |" in table
