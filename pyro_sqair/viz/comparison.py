# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Systems side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from pyro_sqair.viz.files import save_image

# Okabe and Ito's colours, which nobody takes for each other.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def draw_comparison(
    results: Mapping[str, Mapping[str, Mapping[str, float]]], name: str, path: str | Path, label: str
) -> None:
    """Draws one figure of several systems as bars, in groups of one setting each.

    Args:
        results: for each system, for each setting, its figures; the standard deviation of `name` is `name_std`.
        name: the figure to draw.
        path: of the image; the format follows from the suffix.
        label: what it is, with its unit.

    Raises:
        ValueError: if there is no system, or their settings differ.
    """
    settings = [tuple(found) for found in results.values()]
    if not settings or any(other != settings[0] for other in settings):
        raise ValueError(f"expected systems with the same settings, got {dict(zip(results, settings, strict=True))}")
    figure = Figure(figsize=(1.5 + 1.6 * len(settings[0]), 3.6), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    width = 0.8 / len(results)
    for i, (system, found) in enumerate(results.items()):
        places = np.arange(len(settings[0])) + (i - (len(results) - 1) / 2) * width
        heights = [found[setting][name] for setting in settings[0]]
        spreads = [found[setting].get(f"{name}_std", 0.0) for setting in settings[0]]
        color = _COLORS[i % len(_COLORS)]
        axes.bar(places, heights, 0.9 * width, yerr=spreads, color=color, label=system, capsize=3)
    axes.axhline(0, color="#404040", linewidth=0.8)
    axes.set_xticks(np.arange(len(settings[0])), settings[0])
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    _save(canvas, path)


def draw_errors(errors: Mapping[str, Sequence[float]], path: str | Path, label: str = "error (pixels)") -> None:
    """Draws how errors grow over the frames that were imagined.

    Args:
        errors: for each system, its error in the first imagined frame, the second, and so on.
        path: of the image; the format follows from the suffix.
        label: what it is, with its unit.

    Raises:
        ValueError: if there is nothing to draw.
    """
    if not errors or not all(errors.values()):
        raise ValueError(f"expected errors of at least one frame for each system, got {dict(errors)}")
    figure = Figure(figsize=(5.5, 3.6), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    for i, (system, values) in enumerate(errors.items()):
        axes.plot(range(1, len(values) + 1), values, color=_COLORS[i % len(_COLORS)], label=system, marker="o", ms=3)
    axes.set(xlabel="frames imagined", ylabel=label)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    _save(canvas, path)


def _save(canvas: FigureCanvasAgg, path: str | Path) -> None:
    canvas.draw()
    save_image(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()), path)
