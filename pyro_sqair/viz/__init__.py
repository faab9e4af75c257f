# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Figures and animations, written to files; no display and no global state."""

from pyro_sqair.viz.animation import animate_tracks
from pyro_sqair.viz.comparison import draw_comparison, draw_errors
from pyro_sqair.viz.curves import draw_curves
from pyro_sqair.viz.files import save_image
from pyro_sqair.viz.ground_truth import animate_ground_truth, draw_ground_truth
from pyro_sqair.viz.palette import PALETTE, color_of
from pyro_sqair.viz.tracks import draw_prediction, draw_samples, draw_tracks

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
    "save_image",
]
