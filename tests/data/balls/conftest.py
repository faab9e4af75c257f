# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Random discs without overlap, and the motion behind videos of balls."""

import pytest
import torch

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


@pytest.fixture
def draw_discs():
    """A function that draws discs in different cells of a 3 x 3 grid: the arguments of `simulate` up to `present`."""

    def draw(batch, discs, speed, seed, box=64.0):
        generator = torch.Generator().manual_seed(seed)

        def uniform(low, high, *shape):
            return low + (high - low) * torch.rand(*shape, dtype=torch.float64, generator=generator)

        radii, masses = uniform(3.0, 7.0, batch, discs), uniform(0.5, 8.0, batch, discs)
        cells = torch.stack([torch.randperm(9, generator=generator)[:discs] for _ in range(batch)])
        slack = (box / 3 - 2 * radii)[..., None]
        corner = torch.stack([cells % 3, cells // 3], -1) * box / 3
        positions = corner + radii[..., None] + slack * uniform(0.0, 1.0, batch, discs, 2)
        velocities = speed * torch.randn(batch, discs, 2, dtype=torch.float64, generator=generator)
        return positions, velocities, radii, masses, torch.ones(batch, discs, dtype=torch.bool)

    return draw
