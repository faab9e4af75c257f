# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Videos of bouncing balls: frames, ground truth, and distributions in the first frame and later ones."""

import dataclasses
import math

import pytest
import torch

from pyro_sqair.data import (
    BallsConfig,
    BouncingBalls,
    coloured_balls,
    curtained_balls,
    four_balls,
    six_to_eight_balls,
)
from pyro_sqair.data.sequences import to_uint8

VARIED = BallsConfig(min_balls=0, max_balls=5, speed=6.0, colours=((0.2, 0.9, 0.5), (1.0, 0.0, 0.3)), curtain_width=9)
CONFIGS = pytest.mark.parametrize(
    "config",
    [four_balls(), six_to_eight_balls(), coloured_balls(), curtained_balls(), VARIED],
    ids=["four", "six-to-eight", "coloured", "curtained", "varied"],
)


def seeded(seed, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def sample(config, batch=8, length=6, seed=0, device="cpu"):
    return BouncingBalls(config, device).sample(batch, length, seeded(seed, device)).to("cpu")


def centres(data):
    """Centres (x, y) of the balls in the frame, [T, B, M, 2]."""
    return data.boxes[..., :2] + data.boxes[..., 2:] / 2


def coverage(x, y, radius, size):
    """Share of each pixel that a disc covers, [size, size]."""
    centres = torch.arange(size, dtype=torch.float64) + 0.5
    distance = ((centres - x).square() + (centres - y).square()[:, None]).sqrt()
    return (radius - distance + 0.5).clamp(0.0, 1.0)


@CONFIGS
def test_shapes_and_types_and_blank_values_of_absent_balls(config, device):
    data = sample(config, device=device)
    m, size, channels = config.max_balls, config.frame, len(config.colours[0])
    assert data.frames.shape == (6, 8, channels, size, size) and data.frames.dtype == torch.float32
    assert data.count.shape == (6, 8) and data.count.dtype == data.ids.dtype == data.labels.dtype == torch.int64
    assert data.present.shape == data.ids.shape == (6, 8, m) and data.present.dtype == torch.bool
    assert data.boxes.shape == (6, 8, m, 4) and data.boxes.dtype == torch.float32
    assert data.labels.shape == (8, m)
    assert data.collisions.shape == (6, 8, size, size) and data.collisions.dtype == torch.bool

    assert torch.equal(data.present.sum(-1), data.count) and (data.present == data.present[:1]).all()
    absent = ~data.present
    assert (data.ids[absent] == -1).all() and (data.labels[absent[0]] == -1).all()
    assert (data.boxes[absent] == 0).all() and (data.boxes[~absent] != 0).any()
    slots = torch.arange(m).expand_as(data.ids)
    assert torch.equal(data.ids[~absent], slots[~absent])
    to_uint8(data.frames)  # raises an error for values other than k/255


@CONFIGS
def test_boxes_have_the_size_of_the_kind(config, motions):
    data = sample(config)
    ((positions, *_),) = motions
    radii = torch.tensor(config.radii)[data.labels.clamp(min=0)].expand(data.present.shape)
    left_top, size = data.boxes[data.present].split(2, -1)
    torch.testing.assert_close(size, 2 * radii[data.present][:, None].expand_as(size))
    offset = (config.box - config.frame) // 2
    expected = (positions - offset)[data.present].float()
    torch.testing.assert_close(left_top + size / 2, expected, atol=1e-5, rtol=0)
    assert (left_top > -offset - 1e-4).all() and (left_top + size < config.frame + offset + 1e-4).all()


@pytest.mark.parametrize("config", [four_balls(), dataclasses.replace(six_to_eight_balls(), crop=None)])
def test_frames_show_discs_where_the_balls_are(config):
    data = sample(config, batch=5)
    radii = torch.tensor(config.radii)
    for t in range(6):
        for b in range(5):
            discs = [
                coverage(*centres(data)[t, b, m].tolist(), radii[data.labels[b, m]], config.frame)
                for m in range(int(data.count[t, b]))
            ]
            # Half a step of rounding to bytes, and a margin because positions are float32.
            assert (255 * (data.frames[t, b, 0] - torch.stack(discs).amax(0))).abs().max() < 0.51


@CONFIGS
def test_collisions_are_the_pixels_of_the_discs_that_collide(config, device, motions):
    fast = dataclasses.replace(config, speed=8.0)
    data = sample(fast, batch=24, device=device)
    (motion,) = motions
    radii = data.boxes[0, ..., 2] / 2
    assert motion.colliding.sum() > 8
    offset = (fast.box - fast.frame) // 2
    for t in range(6):
        for b in range(24):
            expected = torch.zeros(fast.frame, fast.frame, dtype=torch.bool)
            for m in motion.colliding[t, b].nonzero()[:, 0].tolist():
                x, y = (motion.positions[t, b, m] - offset).tolist()
                expected |= 255 * coverage(x, y, radii[b, m].item(), fast.frame) >= 0.5
            assert (expected != data.collisions[t, b]).sum() <= 1  # rounding to float32 can change one pixel


def test_the_crop_is_the_middle_of_the_whole_box_and_balls_leave_and_return():
    whole = sample(dataclasses.replace(four_balls(), crop=None), 40, 60)
    data = sample(four_balls(), 40, 60)
    assert torch.equal(data.frames, whole.frames[..., 7:57, 7:57])
    assert torch.equal(data.collisions, whole.collisions[..., 7:57, 7:57])
    torch.testing.assert_close(data.boxes[..., :2] + 7, whole.boxes[..., :2], atol=1e-5, rtol=0)
    low, high = data.boxes[..., :2], data.boxes[..., :2] + data.boxes[..., 2:]
    outside = ((high < 0) | (low > 50)).any(-1)
    left = outside[1:] & ~outside[:-1]
    returned = ~outside[1:] & outside[:-1]
    assert all((left[:, data.labels == kind].sum() > 5) for kind in (0, 1))
    assert all((returned[:, data.labels == kind].sum() > 5) for kind in (0, 1))


def test_colours_differ_within_a_sequence_and_are_shown_as_given():
    config = coloured_balls()
    data = sample(dataclasses.replace(config, crop=None), 30, 1)
    palette = torch.tensor(config.colours)
    seen = []
    for b in range(30):
        columns, rows = centres(data)[0, b].long().unbind(-1)
        shown = data.frames[0, b][:, rows, columns].T
        distance = (shown[:, None] - palette).abs().amax(-1)
        assert (distance.amin(-1) <= 0.5 / 255 + 1e-6).all()
        assert len(distance.argmin(-1).unique()) == 4
        seen += distance.argmin(-1).tolist()
    assert set(seen) == set(range(len(palette)))


def test_more_balls_than_colours_share_them_evenly():
    config = BallsConfig(min_balls=5, max_balls=5, colours=((0.4,), (0.8,)), crop=None)
    data = sample(config, 20, 1)
    columns, rows = centres(data)[0].long().unbind(-1)
    shown = data.frames[0, torch.arange(20)[:, None], 0, rows, columns]
    assert set((shown > 0.6).sum(-1).tolist()) == {2, 3}


@pytest.mark.parametrize("brightness", [0.0, 0.5])
def test_a_curtain_hides_the_balls_but_does_not_change_the_ground_truth(brightness):
    curtained = dataclasses.replace(curtained_balls(), curtain_brightness=brightness)
    plain = sample(dataclasses.replace(curtained, curtain_width=0), 20, 25)
    data = sample(curtained, 20, 25)
    for a, b in zip(data[1:], plain[1:], strict=True):
        assert torch.equal(a, b)
    grey = torch.tensor(round(255 * brightness)) * torch.tensor(1 / 255)
    lefts = set()
    for b in range(20):
        same = (data.frames[:, b] == plain.frames[:, b]).all(0)[0].all(0)
        blank = (data.frames[:, b] == grey).all(0)[0].all(0)
        starts = [s for s in range(34) if blank[s : s + 17].all() and same[:s].all() and same[s + 17 :].all()]
        assert starts
        lefts.add(starts[0])
    assert len(lefts) > 8
    assert not torch.equal(data.frames, plain.frames)


@CONFIGS
def test_same_seed_same_sequences_and_fewer_frames_are_the_beginning_of_more(config, device, assert_same):
    source, before = BouncingBalls(config, device), torch.get_rng_state()
    first, again, other = (source.sample(5, 7, seeded(seed, device)) for seed in (1, 1, 2))
    assert_same(first, again)
    assert not torch.equal(first.frames, other.frames)
    assert_same(source.sample(5, 3, seeded(1, device)), first.slice(frames=slice(3)))
    generator = seeded(1, device)
    assert torch.equal(source.sample(5, 7, generator).frames, first.frames)
    assert not torch.equal(source.sample(5, 7, generator).frames, first.frames)
    assert torch.equal(before, torch.get_rng_state())


def test_a_sequence_may_have_no_ball_and_balls_may_stand_still():
    data = sample(BallsConfig(min_balls=0, max_balls=2), 40, 3)
    empty = data.count[0] == 0
    assert empty.any() and (data.frames[:, empty] == 0).all() and not data.collisions[:, empty].any()
    assert data.boxes.isfinite().all()
    alone = sample(BallsConfig(min_balls=1, max_balls=1), 4, 50)
    assert (alone.count == 1).all() and not alone.collisions.any() and (alone.frames.amax((2, 3, 4)) == 1).any()
    still = sample(dataclasses.replace(four_balls(), speed=0.0), 4, 5)
    assert torch.equal(still.frames, still.frames[:1].expand_as(still.frames)) and not still.collisions.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"box": 0}, "box from 1 to 512 .* got 0 and 50"),
        ({"box": 10**30}, "box from 1 to 512 .* got 1000"),
        ({"crop": 65}, "crop None or from 1 to box, got 64 and 65"),
        ({"min_balls": 5}, "min_balls <= max_balls .* got 5 and 4"),
        ({"min_balls": -1}, "0 <= min_balls .* got -1 and 4"),
        ({"min_balls": 0, "max_balls": 0}, "max_balls >= 1, got 0 and 0"),
        ({"radii": (5.0,)}, r"a radius and a mass for each kind, got \(5.0,\) and \(1.0, 6.0\)"),
        ({"radii": (), "masses": ()}, "a radius and a mass for each kind"),
        ({"radii": (5.0, 32.0)}, "positive radii below half the box of 64 px, got .* 32.0"),
        ({"radii": (5.0, 0.0)}, "positive radii"),
        ({"max_balls": 132}, "fit into the box of 64 px, got max_balls=132 of radius up to 3.0"),
        ({"masses": (1.0, 0.0)}, r"positive masses, got \(1.0, 0.0\)"),
        ({"masses": (1.0, math.inf)}, "finite, positive masses"),
        ({"speed": -1.0}, "a speed from 0 to .* px a frame.*, got -1.0"),
        ({"speed": 1e6}, "a speed from 0 to 23.68 px a frame, .*, got 1000000.0"),
        ({"speed": 59.0, "masses": (1.0, 1.0)}, "a speed from 0 to 58 px a frame, .*, got 59.0"),
        ({"masses": (1.0, 1e12)}, "a speed from 0 to 5.8e-05 px a frame, .*, got 1.6"),
        ({"colours": ()}, "1 channel or all have 3"),
        ({"colours": ((1.0, 0.5),)}, "1 channel or all have 3"),
        ({"colours": ((255.0,),)}, r"colours within \[0, 1\], got \(\(255.0,\),\)"),
        ({"curtain_width": 51}, "curtain_width from 0 to 50, the frame, got 51"),
        ({"curtain_brightness": 1.5}, r"curtain_brightness within \[0, 1\], got 1.5"),
    ],
)
def test_values_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(four_balls(), **change)


@pytest.mark.parametrize(("balls", "radius"), [(40, 4.0), (7, 11.0)])
def test_too_many_balls_are_refused_at_construction(balls, radius):
    crowd = BallsConfig(max_balls=balls, radii=(radius,), masses=(1.0,))
    with pytest.raises(ValueError, match=rf"placed without overlap, got max_balls={balls} of radius up to {radius} in"):
        BouncingBalls(crowd)


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
