# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Moving digits against a second implementation in plain loops, and documented distributions."""

import dataclasses
import itertools
import math

import pytest
import torch

from pyro_sqair.data import (
    DigitImages,
    MotionConfig,
    MovingDigits,
    embedded_digits,
    from_uint8,
    gentle_motion,
    published_motion,
)

PRESETS = pytest.mark.parametrize("motion", [published_motion(), gentle_motion()], ids=["published", "gentle"])
CROWDED = MotionConfig(canvas=30, max_digits=4, max_speed=6.0, max_acceleration=2.0, acceleration_noise=0.5)


def patches(count=12, side=9):
    """Solid random patches of all sizes from 2x2; labels are their indices."""
    generator = torch.Generator().manual_seed(7)
    heights, widths = torch.randint(2, side + 1, (2, count), generator=generator)
    images = torch.randint(25, 256, (count, side, side), generator=generator)
    steps = torch.arange(side)
    inside = (steps < heights[:, None])[:, :, None] & (steps < widths[:, None])[:, None, :]
    return DigitImages((images * inside).byte(), heights, widths, torch.arange(count))


def seeded(seed, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def slow_frame(digits, labels, boxes, canvas):
    """One frame, pixel by pixel."""
    frame = torch.zeros(canvas, canvas, dtype=torch.uint8)
    for label, (left, top, width, height) in zip(labels.tolist(), boxes.tolist(), strict=True):
        if label < 0:
            continue
        for y in range(int(height)):
            for x in range(int(width)):
                row, col = int(top) + y, int(left) + x
                if 0 <= row < canvas and 0 <= col < canvas:
                    frame[row, col] = max(frame[row, col].item(), digits.images[label, y, x].item())
    return frame


def slow_path(start, velocity, acceleration, noise, upper, motion):
    """One coordinate of one digit over time; noise[0] belongs to the step before the first frame."""

    def clip(value, limit):
        return max(-limit, min(limit, value))

    velocity = clip(velocity + acceleration, motion.max_speed)
    acceleration = clip(acceleration + noise[0], motion.max_acceleration)
    path = [start]
    for eps in noise[1:]:
        place = path[-1] + velocity
        velocity = clip(velocity + acceleration, motion.max_speed)
        acceleration = clip(acceleration + eps, motion.max_acceleration)
        if place < 0 or place > upper:
            place = -place if place < 0 else 2 * upper - place
            velocity, acceleration = -velocity, -acceleration
        path.append(place)
    return path


@pytest.mark.parametrize("motion", [CROWDED, dataclasses.replace(CROWDED, leaves_frame=False)])
def test_frames_agree_with_plain_loops(motion, device):
    digits = patches()
    data = MovingDigits(digits, motion, device).sample(12, 7, seeded(0, device)).to("cpu")
    assert data.frames.shape == (7, 12, 1, 30, 30)
    assert (data.count[0] > 1).any()
    for t in range(7):
        for b in range(12):
            expected = slow_frame(digits, data.labels[b], data.boxes[t, b], motion.canvas)
            assert torch.equal(data.frames[t, b, 0], from_uint8(expected))


@pytest.mark.parametrize("leaves_frame", [True, False])
def test_trajectories_agree_with_plain_loops(leaves_frame):
    motion = dataclasses.replace(published_motion(), acceleration_noise=0.7, leaves_frame=leaves_frame)
    source = MovingDigits(patches(), motion)
    generator = seeded(1)
    start = torch.rand(16, 2, 2, generator=generator) * 41
    size = torch.randint(2, 10, (16, 2, 2), generator=generator).float()
    length = 12
    paths = source._trajectories(start, size, length, seeded(2))

    generator = seeded(2)
    velocity = torch.rand(16, 2, 2, generator=generator) * 20 - 10
    acceleration = torch.rand(16, 2, 2, generator=generator) * 6 - 3
    noise = torch.stack([torch.randn(16, 2, 2, generator=generator) for _ in range(length)]) * 0.7
    reflected = 0
    for i in torch.cartesian_prod(*(torch.arange(n) for n in start.shape)).tolist():
        upper = 50.0 if leaves_frame else 50 - size[tuple(i)].item()
        at = tuple(i)
        values = [x[at].item() for x in (start, velocity, acceleration)]
        expected = slow_path(*values, noise[:, *at].tolist(), upper, motion)
        torch.testing.assert_close(paths[:, *at], torch.tensor(expected), atol=1e-3, rtol=0)
        steps = [b - a for a, b in itertools.pairwise(expected)]
        reflected += sum(a * b < 0 for a, b in itertools.pairwise(steps))
    assert reflected > 50  # enough reflections are tested


@PRESETS
def test_digits_start_inside_and_apart(motion):
    data = MovingDigits(embedded_digits("test"), motion).sample(600, 1, seeded(6))
    boxes, pair = data.boxes[0], data.count[0] == 2
    low, high = boxes[..., :2], boxes[..., :2] + boxes[..., 2:]
    assert low.min() >= 0 and high.max() <= motion.canvas
    apart = ((low[:, 0] >= high[:, 1]) | (low[:, 1] >= high[:, 0])).any(-1)
    assert pair.sum() > 100 and bool(apart[pair].all())


def test_a_single_digit_starts_anywhere_even_where_a_second_would_not_fit():
    size = torch.full((2,), 22)
    digits = DigitImages(torch.ones(2, 22, 22).byte(), size, size, torch.arange(2))
    data = MovingDigits(digits, published_motion()).sample(6000, 1, seeded(14))
    corners = data.boxes[0, data.count[0] == 1, 0, :2]
    # round(28 u) is each of 10, ..., 18 with probability 1/28; then no other 22 px fit on a canvas of 50 px.
    middle = ((corners >= 10) & (corners <= 18)).all(-1).float()
    probability = (9 / 28) ** 2
    error = math.sqrt(probability * (1 - probability) / len(middle))
    assert len(middle) > 1800 and abs(middle.mean() - probability) < 4 * error


def test_gentle_digits_never_leave_and_published_ones_do():
    digits = embedded_digits("test")
    for motion, leaves in ((gentle_motion(), False), (published_motion(), True)):
        boxes = MovingDigits(digits, motion).sample(200, 30, seeded(8)).boxes
        outside = (boxes[..., :2] + boxes[..., 2:]).amax() > motion.canvas
        assert bool(outside) == leaves and boxes.min() >= 0


@PRESETS
def test_annotations_are_consistent(motion):
    data = MovingDigits(embedded_digits("test"), motion).sample(100, 5, seeded(10))
    assert torch.equal(data.present.sum(-1), data.count)
    assert torch.equal(data.count, data.count[:1].expand(5, -1))
    assert torch.equal(data.ids, torch.where(data.present, torch.arange(2), -1))
    assert torch.equal(data.labels >= 0, data.present[0])
    assert bool((data.boxes[~data.present] == 0).all())
    assert bool((data.boxes[data.present][:, 2:] > 0).all())
    assert bool((data.frames.flatten(2).amax(-1) == 0)[data.count == 0].all())
    assert torch.equal(data.boxes, data.boxes.round())


@pytest.mark.parametrize(("fewest", "most"), [(0, 2), (1, 3), (2, 2)])
def test_counts_are_equally_likely(fewest, most):
    motion = dataclasses.replace(published_motion(), min_digits=fewest, max_digits=most)
    n, kinds = 6000, most - fewest + 1
    count = MovingDigits(patches(), motion).sample(n, 1, seeded(11)).count[0]
    assert count.min() == fewest and count.max() == most
    error = math.sqrt((1 / kinds) * (1 - 1 / kinds) / n)
    frequency = count.bincount(minlength=most + 1)[fewest:] / n
    torch.testing.assert_close(frequency, torch.full((kinds,), 1 / kinds), atol=4 * error + 1e-6, rtol=0)


def test_no_image_twice_and_every_order_equally_likely():
    small = MotionConfig(min_digits=3, max_digits=3)
    labels = MovingDigits(DigitImages(*(field[:4] for field in patches())), small)._distinct(24_000, seeded(12))
    orders, frequency = labels.unique(dim=0, return_counts=True)
    assert len(orders) == 24 and all(len(set(row)) == 3 for row in orders.tolist())
    error = math.sqrt(24_000 * (1 / 24) * (23 / 24))
    assert (frequency - 1000).abs().max() < 4 * error


@PRESETS
def test_the_generator_determines_the_sequences_and_short_ones_are_prefixes(motion, device, assert_same):
    digits = patches()
    before, images = torch.get_rng_state(), digits.images.clone()
    source = MovingDigits(digits, motion, device)
    first, again, other = (source.sample(9, 6, seeded(seed, device)) for seed in (1, 1, 2))
    assert_same(first, again)
    assert not torch.equal(first.frames, other.frames)
    assert_same(source.sample(9, 3, seeded(1, device)), first.slice(frames=slice(0, 3)))
    generator = seeded(1, device)
    assert torch.equal(source.sample(9, 6, generator).frames, first.frames)
    assert not torch.equal(source.sample(9, 6, generator).frames, first.frames)
    assert torch.equal(before, torch.get_rng_state()) and torch.equal(images, digits.images)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"canvas": 0}, "canvas from 1 to 512 .* got 0 and 5"),
        ({"canvas": 2**31}, "canvas from 1 to 512 .* got 2147483648 and 5"),
        ({"tries": 0}, "tries from 1 to 1000, got 50 and 0"),
        ({"tries": 10**30}, "tries from 1 to 1000, got 50 and 1000"),
        ({"min_digits": 3}, "min_digits <= max_digits .* got 3 and 2"),
        ({"max_digits": 0}, "max_digits >= 1, got 0 and 0"),
        ({"max_speed": -1.0}, "max_speed from 0 to 1e6, .* got -1.0"),
        ({"max_acceleration": math.inf}, "max_acceleration from 0 to 1e6, .* got inf"),
        ({"acceleration_noise": math.nan}, "acceleration_noise from 0 to 1e6, .* got nan"),
        ({"max_speed": 1e308}, "max_speed from 0 to 1e6, .* got 1e[+]308"),
        ({"canvas": 8}, "digits of at most 8 px, the canvas, got 9 px"),
        ({"max_digits": 13}, "at least 13 digit images, got 12"),
        (
            {"canvas": 9, "min_digits": 2},
            "digits that fit in the frame without overlap, got max_digits=2 on a canvas of 9",
        ),
    ],
)
def test_impossible_motion_is_refused(change, message):
    full = torch.full((12,), 9)
    digits = DigitImages(torch.ones(12, 9, 9).byte(), full, full, torch.arange(12))
    with pytest.raises(ValueError, match=message):
        MovingDigits(digits, dataclasses.replace(published_motion(), **change)).sample(1, 1, seeded(0))
    with pytest.raises(ValueError, match="digits of type torch.uint8, got torch.float32"):
        MovingDigits(digits._replace(images=digits.images / 255), published_motion())
