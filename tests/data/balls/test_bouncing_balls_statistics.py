# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Distribution of bouncing balls in the first frame and in later ones."""

import dataclasses
import math

import torch

from pyro_sqair.data import BallsConfig, BouncingBalls, four_balls


def sample(config, batch, length):
    return BouncingBalls(config).sample(batch, length, torch.Generator().manual_seed(0))


def test_speed_is_exact_and_directions_are_uniform(motions):
    """On the sphere of d = 2n dimensions and radius R, E[v^2] = R^2/d and E[v^4] = 3 R^4 / (d (d + 2))."""
    n, batch, speed = 4, 4000, 2.5
    sample(dataclasses.replace(four_balls(), speed=speed), batch, 1)
    velocities = motions[0].velocities[0]
    mean_square = velocities.square().sum(-1).mean(-1)
    torch.testing.assert_close(mean_square, torch.full_like(mean_square, speed**2), rtol=1e-5, atol=0)
    d, square = 2 * n, n * speed**2
    flat = velocities.flatten(1)
    for power, expected in ((1, 0.0), (2, square / d), (4, 3 * square**2 / (d * (d + 2)))):
        values = flat**power
        error = values.std(0) / math.sqrt(batch)
        assert ((values.mean(0) - expected).abs() < 4.5 * error).all()
    products = (flat[:, :1] * flat[:, 1:]).mean(0)
    assert (products.abs() < 4.5 * square / d / math.sqrt(batch)).all()


def test_first_positions_are_uniform_without_overlap(motions):
    """Distances between two balls against rejection sampling, one pair at a time."""
    radius, batch = 9.0, 6000
    config = BallsConfig(min_balls=2, max_balls=2, radii=(radius,), masses=(1.0,), crop=None)
    sample(config, batch, 1)
    found = motions[0].positions[0]
    drawn = radius + torch.rand(40_000, 2, 2, dtype=torch.float64) * (64 - 2 * radius)
    naive = drawn[(drawn[:, 0] - drawn[:, 1]).norm(dim=-1) > 2 * radius]
    assert found.min() >= radius and found.max() <= 64 - radius
    distance, reference = ((z[:, 0] - z[:, 1]).norm(dim=-1) for z in (found, naive))
    assert distance.min() > 2 * radius
    for value, other in ((distance, reference), (found[:, 0, 0], naive[:, 0, 0]), (found[:, 1, 1], naive[:, 1, 1])):
        for power in (1, 2, 3):
            a, b = value**power, other**power
            error = math.sqrt(a.var().item() / len(a) + b.var().item() / len(b))
            assert abs(a.mean() - b.mean()) < 4.5 * error


def test_with_equal_masses_all_frames_have_the_same_distribution(motions):
    """Uniform positions and a uniform direction of the velocity vector are the invariant measure of the motion."""
    # The frames are not used: a crop of 2 px takes the least time to draw.
    config = BallsConfig(min_balls=3, max_balls=3, radii=(9.0,), masses=(1.0,), speed=12.0, crop=2)
    sample(config, 1500, 12)
    ((positions, velocities, colliding),) = motions
    assert colliding.any(-1).sum(0).float().mean() > 4
    nearest = (positions[:, :, 0] - positions[:, :, 1]).norm(dim=-1)
    middle = (positions - 32).square().sum(-1).mean(-1)
    fourth = velocities.norm(dim=-1).pow(4).mean(-1)
    outward = (velocities * (positions - 32)).sum(-1).mean(-1)
    for value in (nearest, middle, fourth, outward):
        error = (value[0].var() + value[-1].var()).div(1500).sqrt()
        assert (value[0].mean() - value[-1].mean()).abs() < 4.5 * error


def test_numbers_and_kinds_of_balls_are_uniform():
    config = BallsConfig(min_balls=1, max_balls=3, radii=(2.0, 3.0, 4.0, 5.0), masses=(1.0, 2.0, 3.0, 4.0))
    data = sample(config, 6000, 1)
    counts = data.count[0].bincount(minlength=4)[1:].double()
    assert (counts / 6000 - 1 / 3).abs().max() < 4 * math.sqrt(2 / 9 / 6000)
    kinds = data.labels[data.labels >= 0]
    share = kinds.bincount(minlength=4).double() / len(kinds)
    assert (share - 1 / 4).abs().max() < 4 * math.sqrt(3 / 16 / len(kinds))
