# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Access to the motion behind videos of balls."""

import pytest

from pyro_sqair.data.balls import bouncing_balls
from pyro_sqair.data.balls.collisions import Motion


@pytest.fixture
def motions(monkeypatch: pytest.MonkeyPatch) -> list[Motion]:
    """The motion of every batch that the test draws, in the order of the draws."""
    drawn, simulate = [], bouncing_balls.simulate

    def record(*arguments: object) -> Motion:
        drawn.append(simulate(*arguments))
        return drawn[-1]

    monkeypatch.setattr(bouncing_balls, "simulate", record)
    return drawn
