# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Anti-aliased discs against plain loops, their area, and their symmetries."""

import math

import pytest
import torch

from pyro_sqair.data.balls.ball_rendering import footprint_side, footprints, paint

SIZE = 21


def draw(centres, radii, brightness=None, size=SIZE, device="cpu"):
    """Discs of each frame, [B, M, 2] and [B, M]: bytes [B, size, size]."""
    centres = torch.as_tensor(centres, dtype=torch.float64, device=device)
    radii = torch.as_tensor(radii, dtype=torch.float64, device=device).expand(centres.shape[:2])
    if brightness is None:
        brightness = torch.ones_like(radii).float()
    discs = footprints(centres, radii, footprint_side(float(radii.max())), size)
    return paint(discs, torch.as_tensor(brightness, device=device), size).cpu()


def slow_disc(x, y, radius, brightness, size):
    """One disc, pixel by pixel, in float64 and before rounding."""
    return [
        [
            255 * brightness * min(1.0, max(0.0, radius - math.hypot(column + 0.5 - x, row + 0.5 - y) + 0.5))
            for column in range(size)
        ]
        for row in range(size)
    ]


@pytest.mark.parametrize("radius", [0.3, 1.0, 3.5, 5.0, 6.25])
def test_agrees_with_plain_loops_wherever_the_disc_lies(radius, device):
    """Every pixel, also those that the footprint leaves out; rounding may differ where it is a matter of float32."""
    centres = torch.rand(25, 1, 2, dtype=torch.float64) * (SIZE + 4 * radius) - 2 * radius
    found = draw(centres, radius, device=device)
    for image, (x, y) in zip(found, centres[:, 0].tolist(), strict=True):
        exact = torch.tensor(slow_disc(x, y, radius, 1.0, SIZE), dtype=torch.float64)
        assert (image - exact).abs().max() <= 0.5 + 1e-3


def test_the_brightest_of_two_wins_and_bytes_are_the_nearest():
    centres, radii = torch.tensor([[[8.2, 9.0], [12.7, 11.4], [5.0, 12.0]]]), [4.0, 3.0, 5.5]
    brightness = torch.tensor([[0.3, 0.9, 0.6]])
    found = draw(centres.double(), torch.tensor([radii]), brightness)
    discs = [
        torch.tensor(slow_disc(x, y, r, b, SIZE), dtype=torch.float64)
        for (x, y), r, b in zip(centres[0].tolist(), radii, brightness[0].tolist(), strict=True)
    ]
    exact = torch.stack(discs).amax(0)
    assert (found - exact).abs().max() <= 0.5 + 1e-3
    assert found.unique().numel() > 20


def test_the_mean_area_is_that_of_the_disc():
    """pi (r^2 + 1/12), where 1/12 is what the soft edge adds; over a fine grid of sub-pixel places, and bytes."""
    radius, steps = 5.0, (torch.arange(16, dtype=torch.float64) + 0.5) / 16
    centres = 10.0 + torch.cartesian_prod(steps, steps)[:, None]
    area = draw(centres, radius).double().sum((1, 2)) / 255
    assert area.mean().item() == pytest.approx(math.pi * (radius**2 + 1 / 12), rel=5e-4)
    assert area.std() / area.mean() < 5e-3  # no place makes a ball visibly larger


@pytest.mark.parametrize("radius", [3.0, 6.25])
def test_coverage_is_near_the_true_share_of_each_pixel(radius):
    """The share of 32 x 32 points in each pixel that lie in the disc; 0.06 off at worst is known for this rule."""
    centre = torch.tensor([10.3, 9.85], dtype=torch.float64)
    found = draw(centre.view(1, 1, 2), radius)[0].double() / 255
    points = (torch.arange(32 * SIZE, dtype=torch.float64) + 0.5) / 32
    inside = ((points - centre[0]).square() + (points - centre[1]).square()[:, None] < radius**2).double()
    share = inside.view(SIZE, 32, SIZE, 32).mean((1, 3))
    assert (found - share).abs().max() < 0.08
    assert (found - share).square().mean().sqrt() < 0.015


def test_mirrored_and_turned_places_give_mirrored_and_turned_images():
    x, y = 9 + 11 / 64, 10 + 27 / 64
    image, left_right, up_down, transposed = draw([[[x, y]], [[SIZE - x, y]], [[x, SIZE - y]], [[y, x]]], 4.5)
    assert torch.equal(left_right, image.flip(1)) and torch.equal(up_down, image.flip(0))
    assert torch.equal(transposed, image.T) and not torch.equal(image, image.T)


def test_a_step_of_a_pixel_moves_the_image_by_a_pixel():
    image, right, down = draw([[[8.3125, 9.125]], [[9.3125, 9.125]], [[8.3125, 10.125]]], 4.5)
    assert torch.equal(image.roll(1, 1), right) and torch.equal(image.roll(1, 0), down)


@pytest.mark.parametrize("centre", [(-9.0, 5.0), (5.0, SIZE + 9.0), (1e6, 1e6), (-1e6, 3.0)])
def test_a_disc_outside_the_frame_leaves_it_black(centre):
    assert (draw([[centre]], 6.0) == 0).all()


def test_a_disc_on_a_corner_shows_a_quarter():
    image = draw([[[0.0, 0.0]], [[float(SIZE), float(SIZE)]]], 6.0)
    area = image.double().sum((1, 2)) / 255
    torch.testing.assert_close(area, torch.full((2,), math.pi * 36 / 4, dtype=torch.float64), rtol=0.02, atol=0)
    assert image[0, 0, 0] == 255 and image[0, -1, -1] == 0 and image[1, -1, -1] == 255


def test_no_larger_a_footprint_than_needed():
    for radius in (0.2, 1.0, 5.0, 6.25, 7.7):
        side = footprint_side(radius)
        assert 2 * radius + 1 <= side < 2 * radius + 2
