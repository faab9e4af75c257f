# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Anti-aliased discs against plain loops, and their area."""

import math

import pytest
import torch

from pyro_sqair.data.balls.ball_rendering import footprint_side, footprints, paint

SIZE = 21


def draw(centres, radii, brightness=None, device="cpu"):
    """Frames of discs at [B, M, 2] with radii [B, M] or equal ones: bytes [B, SIZE, SIZE]."""
    centres = torch.as_tensor(centres, dtype=torch.float64, device=device)
    radii = torch.as_tensor(radii, dtype=torch.float64, device=device).expand(centres.shape[:2])
    brightness = torch.ones_like(radii).float() if brightness is None else brightness
    return paint(footprints(centres, radii, footprint_side(float(radii.max())), SIZE), brightness, SIZE).cpu()


def slow_disc(x, y, radius, brightness=1.0):
    """One disc, pixel by pixel, in float64 and before rounding."""
    pixels = [pixel + 0.5 for pixel in range(SIZE)]

    def coverage(row, column):
        return min(1.0, max(0.0, radius - math.hypot(column - x, row - y) + 0.5))

    rows = [[coverage(row, column) for column in pixels] for row in pixels]
    return 255 * brightness * torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("radius", [0.3, 1.0, 3.5, 5.0, 6.25])
def test_agrees_with_plain_loops_for_any_position(radius, device):
    """In every pixel, also outside the footprint; a value near k + 1/2 may be rounded differently in float32."""
    centres = torch.rand(25, 1, 2, dtype=torch.float64) * (SIZE + 4 * radius) - 2 * radius
    for image, (x, y) in zip(draw(centres, radius, device=device), centres[:, 0].tolist(), strict=True):
        assert (image - slow_disc(x, y, radius)).abs().max() <= 0.5 + 1e-3
    side = footprint_side(radius)
    assert 2 * radius + 1 <= side < 2 * radius + 2  # not larger than necessary


def test_overlapping_discs_show_the_brightest_rounded_to_the_nearest_byte():
    centres, radii, brightness = [[8.2, 9.0], [12.7, 11.4], [5.0, 12.0]], [4.0, 3.0, 5.5], torch.tensor([0.3, 0.9, 0.6])
    found = draw([centres], [radii], brightness[None])
    discs = [slow_disc(x, y, r, b) for (x, y), r, b in zip(centres, radii, brightness.tolist(), strict=True)]
    assert (found - torch.stack(discs).amax(0)).abs().max() <= 0.5 + 1e-3
    assert found.unique().numel() > 20


def test_the_mean_area_is_that_of_the_disc():
    """pi (r^2 + 1/12), where the soft edge adds 1/12, over a grid of sub-pixel positions, after rounding to bytes."""
    radius, steps = 5.0, (torch.arange(16, dtype=torch.float64) + 0.5) / 16
    centres = 10.0 + torch.cartesian_prod(steps, steps)[:, None]
    area = draw(centres, radius).double().sum((1, 2)) / 255
    assert area.mean().item() == pytest.approx(math.pi * (radius**2 + 1 / 12), rel=5e-4)
    assert area.std() / area.mean() < 5e-3  # the position does not change the size visibly


@pytest.mark.parametrize("radius", [3.0, 6.25])
def test_coverage_is_near_the_true_share_of_each_pixel(radius):
    """The share of 32 x 32 points of each pixel inside the disc; the maximum error of this rule is about 0.06."""
    centre = torch.tensor([10.3, 9.85], dtype=torch.float64)
    found = draw(centre.view(1, 1, 2), radius)[0].double() / 255
    points = (torch.arange(32 * SIZE, dtype=torch.float64) + 0.5) / 32
    inside = ((points - centre[0]).square() + (points - centre[1]).square()[:, None] < radius**2).double()
    share = inside.view(SIZE, 32, SIZE, 32).mean((1, 3))
    assert (found - share).abs().max() < 0.08
    assert (found - share).square().mean().sqrt() < 0.015


def test_discs_far_outside_are_invisible():
    far = [[(-9.0, 5.0)], [(5.0, SIZE + 9.0)], [(1e6, 1e6)], [(-1e6, 3.0)]]
    assert (draw(far, 6.0) == 0).all()
