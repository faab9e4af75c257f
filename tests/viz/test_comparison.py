# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Bars and lines are where the numbers are."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from pyro_sqair.viz import draw_comparison, draw_errors

BLUE, VERMILION = "#0072B2", "#D55E00"


def extent(path: Path, color: str) -> int:
    """Of the pixels of a colour, from the highest to the lowest row; words and edges are of other colours."""
    with Image.open(path) as image:
        picture = np.asarray(image.convert("RGB")).astype(float)
    rows = np.nonzero((np.abs(picture - 255 * np.array(to_rgb(color))) < 2).all(-1).sum(1) > 60)[0]
    return int(rows.max() - rows.min())


def test_bars_are_as_high_as_their_numbers(tmp_path: Path) -> None:
    results = {"a": {"x": {"score": 3.0}}, "b": {"x": {"score": 1.0}}}
    draw_comparison(results, "score", tmp_path / "bars.png", "score (nats)")
    # The legend's patches are narrower than the 60 pixels that count.
    ratio = extent(tmp_path / "bars.png", BLUE) / extent(tmp_path / "bars.png", VERMILION)
    assert ratio == pytest.approx(3.0, rel=0.1)


def test_lines_of_different_lengths(tmp_path: Path) -> None:
    draw_errors({"a": [1.0, 2.0, 3.0], "b": [0.5]}, tmp_path / "lines.png")
    with Image.open(tmp_path / "lines.png") as image:
        assert image.size[0] > 300


@pytest.mark.parametrize(
    "results", [{}, {"a": {"x": {"score": 1.0}}, "b": {"y": {"score": 1.0}}}], ids=["none", "different"]
)
def test_systems_have_the_same_settings(tmp_path: Path, results: dict) -> None:
    with pytest.raises(ValueError, match="expected systems with the same settings"):
        draw_comparison(results, "score", tmp_path / "bars.png", "score")


@pytest.mark.parametrize("errors", [{}, {"a": []}])
def test_nothing_to_draw(tmp_path: Path, errors: dict) -> None:
    with pytest.raises(ValueError, match="expected errors of at least one frame"):
        draw_errors(errors, tmp_path / "lines.png")
    assert not list(tmp_path.iterdir())
