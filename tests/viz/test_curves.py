# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from pyro_sqair.viz import draw_curves

TRAIN, VALIDATION = "#0072B2", "#D55E00"


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def pixels_of(picture: np.ndarray, color: str) -> np.ndarray:
    return (picture == np.round(255 * np.array(to_rgb(color)))).all(-1)


def training(step: int, length: int = 3, **changed: Any) -> dict[str, Any]:
    return {"kind": "train", "step": step, "length": length, "bound": 500.0, "gradient_norm": 20.0} | changed


RECORDS = [training(step, 3 if step <= 50 else 6) for step in range(10, 101, 10)]


def test_a_file_and_its_records_give_the_same_picture(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    records = [*RECORDS, {"kind": "validation", "step": 100, "count_accuracy": 0.9}]
    log.write_text("".join(json.dumps(record) + "\n" for record in records))
    draw_curves(log, tmp_path / "file.png")
    draw_curves(records, tmp_path / "records.png")
    np.testing.assert_array_equal(read(tmp_path / "file.png"), read(tmp_path / "records.png"))


def test_curves_stand_in_their_panels(tmp_path: Path) -> None:
    validation = [{"kind": "validation", "step": step, "count_accuracy": 1.0} for step in (20, 60, 100)]
    draw_curves([*RECORDS, *validation], tmp_path / "curves.png")
    picture = read(tmp_path / "curves.png")
    height = len(picture)
    train, valid = (np.nonzero(pixels_of(picture, color).sum(1) > 300)[0] for color in (TRAIN, VALIDATION))
    # Level curves: the bound in the upper panel, the gradient norm in the lower, the count between them.
    assert ((train < 0.4 * height) | (train > 0.7 * height)).all()
    assert (train < 0.4 * height).any() and (train > 0.7 * height).any()
    assert len(valid) and (valid > 0.38 * height).all() and (valid < 0.5 * height).all()


def test_each_sequence_length_has_its_band(tmp_path: Path) -> None:
    draw_curves(RECORDS, tmp_path / "curves.png")
    picture = read(tmp_path / "curves.png")
    first, second = (np.nonzero(pixels_of(picture, color).sum(0) > 100)[0] for color in ("#F4F4F4", "#E4E4E4"))
    assert first.max() <= second.min() + 1
    assert len(first) == pytest.approx(len(second), rel=0.05)  # of 100 steps, 50 each


def test_null_is_a_gap(tmp_path: Path) -> None:
    broken = [training(r["step"], r["length"], bound=None if 30 <= r["step"] <= 60 else 500.0) for r in RECORDS]
    draw_curves(RECORDS, tmp_path / "whole.png")
    draw_curves(broken, tmp_path / "broken.png")
    whole, gap = (pixels_of(read(tmp_path / name), TRAIN).sum() for name in ("whole.png", "broken.png"))
    assert 0 < gap < whole


def test_the_start_does_not_flatten_the_rest(tmp_path: Path) -> None:
    bounds = [-1e6, -1e5, *np.linspace(400, 600, 48)]
    draw_curves([training(10 * i + 10, bound=bound) for i, bound in enumerate(bounds)], tmp_path / "curves.png")
    picture = read(tmp_path / "curves.png")
    upper = picture[: int(0.37 * len(picture))].astype(int)
    rows = np.nonzero((np.abs(upper - 255 * np.array(to_rgb(TRAIN))) < 60).all(-1).any(1))[0]
    assert rows.max() - rows.min() > 0.15 * len(picture)


def test_the_shortest_run_can_be_drawn(tmp_path: Path) -> None:
    draw_curves([training(1, bound=None, gradient_norm=None)], tmp_path / "empty.png")
    draw_curves([training(1), {"kind": "validation", "step": 1, "bound": 490.0}], tmp_path / "one.png")
    assert not pixels_of(read(tmp_path / "empty.png")[:200], VALIDATION).any()
    assert pixels_of(read(tmp_path / "one.png"), VALIDATION).any()


def test_only_a_run_can_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected records of training"):
        draw_curves([{"kind": "validation", "step": 1}], tmp_path / "curves.png")
