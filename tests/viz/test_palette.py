# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from pyro_sqair.viz import PALETTE, color_of

# Matrices of Machado et al. 2009 for linear RGB, severity 1.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deuteranopia": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    "tritanopia": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}


def lab(color: str, vision: str) -> np.ndarray:
    """CIELAB coordinates (D65) of a colour as seen with this vision."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(VISION[vision]) @ linear, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = (np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in to_xyz @ seen / [0.9505, 1.0, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISION)
def test_colors_differ_for_every_vision(vision: str) -> None:
    # A difference of 2.3 is just noticeable side by side; thin lines far apart need much more.
    seen = [lab(color_of(k), vision) for k in range(10)]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 20
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen[:4], 2)) > 35


def test_colors_are_bright_on_black() -> None:
    assert min(lab(color, "normal")[0] for color in PALETTE) > 45


def test_color_depends_on_the_id_alone() -> None:
    assert [color_of(k) for k in range(10)] == list(PALETTE)
    assert color_of(23) == PALETTE[3]


def test_absent_object_has_no_color() -> None:
    with pytest.raises(ValueError, match="expected the id of a present object, at least 0, got -1"):
        color_of(-1)
