# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Figures and animations, written to files without a display or global state."""

from pyro_sqair.viz.ground_truth import animate_ground_truth, draw_ground_truth
from pyro_sqair.viz.palette import PALETTE, color_of
from pyro_sqair.viz.plots import draw_comparison, draw_curves, draw_errors
from pyro_sqair.viz.tracks import animate_tracks, draw_prediction, draw_samples, draw_tracks

__all__ = [
    "PALETTE",
    "animate_ground_truth",
    "animate_tracks",
    "color_of",
    "draw_comparison",
    "draw_curves",
    "draw_errors",
    "draw_ground_truth",
    "draw_prediction",
    "draw_samples",
    "draw_tracks",
]
