# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Plots of numbers: training curves, and comparisons of systems."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_sqair.data.atomic import atomic_path
from pyro_sqair.data.sequences import require

# Okabe and Ito's palette, for colour-blind readers.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_TRAIN, _VALIDATION = _COLORS[:2]
_BANDS = ("#F4F4F4", "#E4E4E4")

Records = Sequence[Mapping[str, Any]]


def draw_curves(records: Records, path: str | Path) -> None:
    """Draws the bound, the count accuracy and the gradient norm over the steps of a run.

    Bands in the background mark the stages of the curriculum. A null in the log is a gap in the curve.

    Args:
        records: the log of the trainer. Records of kind "train" hold `step`, `length`, `bound` in nats per frame and
            `gradient_norm`; those of kind "validation" hold `step` and optionally `bound` in nats per frame and
            `count_accuracy`.
        path: of the image; the suffix determines the format.

    Raises:
        ValueError: if there is no record of training, or the image format is unknown.
    """
    training = [record for record in records if record["kind"] == "train"]
    validation = [record for record in records if record["kind"] == "validation"]
    if not training:
        raise ValueError(f"expected records of training, got {len(records)} records of other kinds")

    figure = Figure(figsize=(8, 7.5), dpi=120, layout="constrained")
    bound, count, gradient = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 2))
    _curve(bound, training, "bound", color=_TRAIN, label="training")
    _curve(bound, validation, "bound", color=_VALIDATION, label="validation", marker="o")
    _curve(count, validation, "count_accuracy", color=_VALIDATION, marker="o")
    _curve(gradient, training, "gradient_norm", color=_TRAIN)
    bound.set(ylabel="bound (nats a frame)")
    count.set(ylabel="count accuracy\n(validation)", ylim=(-0.03, 1.03))
    gradient.set(ylabel="gradient norm", xlabel="step", xlim=(0, training[-1]["step"]))
    if any(record["gradient_norm"] for record in training):  # a log scale needs a positive value
        gradient.set_yscale("log")
    bound.legend(loc="lower right", frameon=False)
    _crop_initial_bounds(bound, [*training, *validation])
    for axes in (bound, count, gradient):
        _shade_stages(axes, training, labelled=axes is bound)
    _save(figure, path)


def draw_comparison(
    results: Mapping[str, Mapping[str, Mapping[str, float]]], name: str, path: str | Path, label: str
) -> None:
    """Draws one measure of several systems as bars, grouped by setting.

    Args:
        results: for each system, for each setting, its measures; the standard deviation of `name` is `name_std`.
        name: the measure to draw.
        path: of the image; the suffix determines the format.
        label: of the axis, with the unit.

    Raises:
        ValueError: if there is no system, their settings differ, or the image format is unknown.
    """
    settings = [tuple(measured) for measured in results.values()]
    if not settings or any(other != settings[0] for other in settings):
        raise ValueError(f"expected systems with the same settings, got {dict(zip(results, settings, strict=True))}")
    figure = Figure(figsize=(1.5 + 1.6 * len(settings[0]), 3.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(results)
    for i, (system, measured) in enumerate(results.items()):
        places = np.arange(len(settings[0])) + (i - (len(results) - 1) / 2) * width
        heights = [measured[setting][name] for setting in settings[0]]
        spreads = [measured[setting].get(f"{name}_std", 0.0) for setting in settings[0]]
        color = _COLORS[i % len(_COLORS)]
        axes.bar(places, heights, 0.9 * width, yerr=spreads, color=color, label=system, capsize=3)
    axes.axhline(0, color="#404040", linewidth=0.8)
    axes.set_xticks(np.arange(len(settings[0])), settings[0])
    axes.set_ylabel(label)
    axes.legend(frameon=False)
    _save(figure, path)


def draw_errors(errors: Mapping[str, Sequence[float]], path: str | Path, label: str = "error (pixels)") -> None:
    """Draws the errors of imagined frames over time.

    Args:
        errors: for each system, its error in the first imagined frame, the second, and so on.
        path: of the image; the suffix determines the format.
        label: of the axis, with the unit.

    Raises:
        ValueError: if there is no system, a system has no errors, or the image format is unknown.
    """
    if not errors or not all(errors.values()):
        raise ValueError(f"expected errors of at least one frame for each system, got {dict(errors)}")
    figure = Figure(figsize=(5.5, 3.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    for i, (system, values) in enumerate(errors.items()):
        axes.plot(range(1, len(values) + 1), values, color=_COLORS[i % len(_COLORS)], label=system, marker="o", ms=3)
    axes.set(xlabel="frames imagined", ylabel=label)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    _save(figure, path)


def _save(figure: Figure, path: str | Path) -> None:
    require(Path(path).suffix, "a path with the suffix of an image format, such as .png", path)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def _curve(axes: Axes, records: Records, name: str, **style: Any) -> None:
    """Draws one quantity over the steps of the records that have it."""
    records = [record for record in records if name in record]
    if records:
        values = np.array([record[name] for record in records], dtype=float)  # None becomes NaN, which is a gap
        axes.plot([record["step"] for record in records], values, linewidth=1.3, markersize=3, **style)


def _crop_initial_bounds(axes: Axes, records: Records) -> None:
    """Crops the first bounds, which lie so far below the others that these would appear constant."""
    values = np.array([record["bound"] for record in records if "bound" in record], dtype=float)
    values = values[np.isfinite(values)]
    if len(values) >= 20:
        low, high = np.quantile(values, 0.1), values.max()
        span = max(high - low, 1.0)
        axes.set_ylim(low - 0.5 * span, high + 0.1 * span)


def _shade_stages(axes: Axes, training: Records, labelled: bool) -> None:
    """Shades the stages of the curriculum; labels give the sequence length."""
    start = stage = 0
    for record, following in zip(training, [*training[1:], None], strict=True):
        if following is not None and following["length"] == record["length"]:
            continue
        axes.axvspan(start, record["step"], color=_BANDS[stage % 2], linewidth=0, zorder=0)
        if labelled:
            middle, text = (start + record["step"]) / 2, f"T = {record['length']}"
            axes.text(middle, 1.01, text, transform=axes.get_xaxis_transform(), ha="center", va="bottom")
        start = record["step"]
        stage += 1
