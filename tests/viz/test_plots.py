# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import extent, has_color, read_image

from pyro_sqair.viz import draw_comparison, draw_curves, draw_errors

TRAIN, VALIDATION = BLUE, VERMILION = "#0072B2", "#D55E00"


def training(step: int, length: int = 3, **changed: Any) -> dict[str, Any]:
    return {"kind": "train", "step": step, "length": length, "bound": 500.0, "gradient_norm": 20.0} | changed


RECORDS = [training(step, 3 if step <= 50 else 6) for step in range(10, 101, 10)]


def test_each_curve_is_in_its_panel(tmp_path: Path) -> None:
    """Constant curves: the bound in the upper panel, the gradient norm in the lower, the count between them."""
    validation = [{"kind": "validation", "step": step, "count_accuracy": 1.0} for step in (20, 60, 100)]
    draw_curves([*RECORDS, *validation], tmp_path / "curves.png")
    picture = read_image(tmp_path / "curves.png")
    height = len(picture)
    train, valid = (np.nonzero(has_color(picture, color).sum(1) > 300)[0] for color in (TRAIN, VALIDATION))
    assert ((train < 0.4 * height) | (train > 0.7 * height)).all()
    assert (train < 0.4 * height).any() and (train > 0.7 * height).any()
    assert len(valid) and (valid > 0.38 * height).all() and (valid < 0.5 * height).all()


def test_each_sequence_length_has_a_band(tmp_path: Path) -> None:
    draw_curves(RECORDS, tmp_path / "curves.png")
    picture = read_image(tmp_path / "curves.png")
    first, second = (np.nonzero(has_color(picture, color).sum(0) > 100)[0] for color in ("#F4F4F4", "#E4E4E4"))
    assert first.max() <= second.min() + 1
    assert len(first) == pytest.approx(len(second), rel=0.05)  # 50 of 100 steps each


def test_null_is_a_gap(tmp_path: Path) -> None:
    broken = [record | {"bound": None} if 30 <= record["step"] <= 60 else record for record in RECORDS]
    draw_curves(RECORDS, tmp_path / "whole.png")
    draw_curves(broken, tmp_path / "broken.png")
    whole, gap = (has_color(read_image(tmp_path / name), TRAIN).sum() for name in ("whole.png", "broken.png"))
    assert 0 < gap < whole


def test_initial_bounds_are_cropped(tmp_path: Path) -> None:
    """Without the crop the rise from 400 to 600 would be as flat as a line."""
    bounds = [-1e6, -1e5, *np.linspace(400, 600, 48)]
    draw_curves([training(10 * i + 10, bound=bound) for i, bound in enumerate(bounds)], tmp_path / "curves.png")
    picture = read_image(tmp_path / "curves.png")
    _, _, top, bottom = extent(has_color(picture[: int(0.37 * len(picture))], TRAIN, tolerance=60))
    assert bottom - top > 0.15 * len(picture)


def test_shortest_run(tmp_path: Path) -> None:
    draw_curves([training(1, bound=None, gradient_norm=None)], tmp_path / "empty.png")
    draw_curves([training(1), {"kind": "validation", "step": 1, "bound": 490.0}], tmp_path / "one.png")
    assert not has_color(read_image(tmp_path / "empty.png")[:200], VALIDATION).any()
    assert has_color(read_image(tmp_path / "one.png"), VALIDATION).any()


def test_height_of_bars(tmp_path: Path) -> None:
    draw_comparison({"a": {"x": {"score": 3.0}}, "b": {"x": {"score": 1.0}}}, "score", tmp_path / "a.png", "score")
    picture = read_image(tmp_path / "a.png")
    # Bars are wider than 60 pixels, unlike the patches of the legend.
    rows = [np.nonzero(has_color(picture, color, tolerance=1).sum(1) > 60)[0] for color in (BLUE, VERMILION)]
    first, second = (found.max() - found.min() for found in rows)
    assert first / second == pytest.approx(3.0, rel=0.1)


def test_errors_of_different_lengths(tmp_path: Path) -> None:
    """The first line rises from 1 to 3; the second is a single point, below the start of the first."""
    draw_errors({"a": [1.0, 2.0, 3.0], "b": [0.5]}, tmp_path / "errors.png")
    picture = read_image(tmp_path / "errors.png")
    below_legend = picture[len(picture) // 4 :]
    line, point = (extent(has_color(below_legend, color, tolerance=1)) for color in (BLUE, VERMILION))
    assert line[0] == pytest.approx(point[0], abs=2)
    assert line[3] < point[2]


def test_wrong_arguments_leave_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    different = {"a": {"x": {"score": 1.0}}, "b": {"y": {"score": 1.0}}}
    for call, words in (
        (lambda: draw_curves([{"kind": "validation", "step": 1}], path), "records of training"),
        (lambda: draw_comparison({}, "score", path, "score"), "systems with the same settings"),
        (lambda: draw_comparison(different, "score", path, "score"), "systems with the same settings"),
        (lambda: draw_errors({}, path), "errors of at least one frame"),
        (lambda: draw_errors({"a": []}, path), "errors of at least one frame"),
        (lambda: draw_errors({"a": [1.0]}, tmp_path / "a.nonsense"), "not supported"),
        (lambda: draw_errors({"a": [1.0]}, tmp_path / "a"), "expected a path with the suffix .*, got .*/a$"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    assert list(tmp_path.iterdir()) == []
