# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""How training went."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from pyro_sqair.training.log import read_log
from pyro_sqair.viz.files import save_image

_TRAIN, _VALIDATION = "#0072B2", "#D55E00"  # blue and vermilion, which nobody takes for each other
_BANDS = ("#F4F4F4", "#E4E4E4")

Records = Sequence[Mapping[str, Any]]


def draw_curves(log: str | Path | Iterable[Mapping[str, Any]], path: str | Path) -> None:
    """Draws the bound, the count accuracy and the gradient norm over the steps of a run.

    Bands in the background show how long the sequences were. A curve has a gap where the log has null.

    Args:
        log: a `log.jsonl` of the trainer, or its records. Those of kind "train" hold `step`, `length`,
            `bound` in nats a frame and `gradient_norm`; those of kind "validation" hold `step` and, if they
            are to be drawn, `bound` in nats a frame and `count_accuracy`.
        path: of the image; the format follows from the suffix.

    Raises:
        ValueError: if there is no record of training.
    """
    records = read_log(Path(log)) if isinstance(log, str | Path) else list(log)
    training = [record for record in records if record["kind"] == "train"]
    validation = [record for record in records if record["kind"] == "validation"]
    if not training:
        raise ValueError(f"expected records of training, got {len(records)} records of other kinds")

    figure = Figure(figsize=(8, 7.5), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    bound, count, gradient = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 2))
    _curve(bound, training, "bound", _TRAIN, "training")
    _curve(bound, validation, "bound", _VALIDATION, "validation", marker="o")
    _curve(count, validation, "count_accuracy", _VALIDATION, "validation", marker="o")
    _curve(gradient, training, "gradient_norm", _TRAIN, "training")
    bound.set(ylabel="bound (nats a frame)")
    count.set(ylabel="count accuracy\n(validation)", ylim=(-0.03, 1.03))
    gradient.set(ylabel="gradient norm", xlabel="step", xlim=(0, training[-1]["step"]))
    if any(record["gradient_norm"] for record in training):  # matplotlib takes no logarithms of nothing
        gradient.set_yscale("log")
    bound.legend(loc="lower right", frameon=False)
    _leave_out_the_start(bound, [*training, *validation])
    for axes in (bound, count, gradient):
        axes.spines[["top", "right"]].set_visible(False)
        _bands(axes, training, named=axes is bound)
    canvas.draw()
    save_image(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()), path)


def _curve(axes: Axes, records: Records, name: str, color: str, label: str, marker: str = "") -> None:
    """Draws one quantity over the steps, if any record has it."""
    having = [record for record in records if name in record]
    if having:
        values = np.array([record[name] for record in having], dtype=float)  # None becomes NaN, a gap
        steps = [record["step"] for record in having]
        axes.plot(steps, values, color=color, label=label, linewidth=1.3, marker=marker, markersize=3)


def _leave_out_the_start(axes: Axes, records: Records) -> None:
    """Leaves out the first steps: their thousands of nats would flatten all that comes after."""
    values = np.array([record["bound"] for record in records if "bound" in record], dtype=float)
    values = values[np.isfinite(values)]
    if len(values) >= 20:
        low, high = np.quantile(values, 0.1), values.max()
        span = max(high - low, 1.0)
        axes.set_ylim(low - 0.5 * span, high + 0.1 * span)


def _bands(axes: Axes, training: Records, named: bool) -> None:
    """Shades the stages of the curriculum, each with its sequence length."""
    start = 0
    stage = 0
    for record, following in zip(training, [*training[1:], None], strict=True):
        if following is not None and following["length"] == record["length"]:
            continue
        axes.axvspan(start, record["step"], color=_BANDS[stage % 2], linewidth=0, zorder=0)
        if named:
            middle = (start + record["step"]) / 2
            words = f"T = {record['length']}"
            axes.text(middle, 1.01, words, transform=axes.get_xaxis_transform(), ha="center", va="bottom")
        start = record["step"]
        stage += 1
