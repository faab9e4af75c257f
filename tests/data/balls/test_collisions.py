# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Collisions against closed forms and conservation of energy; test_collisions_oracle.py has a second simulator."""

import math

import pytest
import torch

from pyro_sqair.data.balls.collisions import pairs, simulate

BOX = 64.0
EXACT = {"atol": 1e-9, "rtol": 0.0}


def float64(values):
    return torch.tensor(values, dtype=torch.float64)


def run(positions, velocities, radii, masses, length, box=BOX, device="cpu", present=None):
    """Simulates one sequence from lists; the result has no batch axis."""
    make = dict(dtype=torch.float64, device=device)
    radii, masses = torch.tensor([radii], **make), torch.tensor([masses], **make)
    present = torch.tensor([present or [True] * radii.shape[1]], device=device)
    motion = simulate(
        torch.tensor([positions], **make), torch.tensor([velocities], **make), radii, masses, present, box, length
    )
    return motion._replace(**{name: getattr(motion, name)[:, 0].cpu() for name in motion._fields})


def energy(velocities, masses):
    return 0.5 * (masses[..., None] * velocities.square()).sum((-1, -2))


def test_all_pairs_once():
    assert pairs(4).T.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert pairs(1).shape == (2, 0)


def test_equal_masses_head_on_swap_velocities(device):
    # They approach at 3 px per frame over 10 px: impact at t = 10/3, shown in frame 4.
    motion = run([[20, 30], [40, 30]], [[2, 0], [-1, 0]], [5, 5], [3, 3], 6, device=device)
    torch.testing.assert_close(motion.velocities[:4, :, 0], float64([[2.0, -1.0]] * 4), **EXACT)
    torch.testing.assert_close(motion.velocities[4:, :, 0], float64([[-1.0, 2.0]] * 2), **EXACT)
    first = 20 + 2 * 10 / 3 - (torch.arange(4, 6).double() - 10 / 3)
    torch.testing.assert_close(motion.positions[4:, 0, 0], first, **EXACT)
    assert (motion.positions[..., 1] == 30).all() and (motion.velocities[..., 1] == 0).all()
    assert motion.colliding.tolist() == [[frame == 4] * 2 for frame in range(6)]


@pytest.mark.parametrize(("m1", "m2"), [(1.0, 6.0), (6.0, 1.0), (1.0, 1e6), (2.5, 2.5)])
def test_unequal_masses_head_on(m1, m2):
    u1, u2 = 3.0, -0.5
    motion = run([[10, 20], [30, 20]], [[u1, 0], [u2, 0]], [4, 6], [m1, m2], 5)
    expected = [((m1 - m2) * u1 + 2 * m2 * u2) / (m1 + m2), ((m2 - m1) * u2 + 2 * m1 * u1) / (m1 + m2)]
    torch.testing.assert_close(motion.velocities[4, :, 0], float64(expected), **EXACT)


@pytest.mark.parametrize(
    ("m1", "m2", "sine"),
    [*((2, 2, sine) for sine in (-0.95, 0.0, 0.3, 0.999, 1 - 1e-8)), (1.5, 4, 0.6), (6, 1, 0.0), (1, 1e6, 0.0)],
)
def test_oblique_collisions_with_a_disc_at_rest(m1, m2, sine):
    """`sine` is the impact parameter over the sum of radii: the struck disc leaves along the line of centres."""
    reach, speed, gap, cosine = 10.0, 4.0, 15.0, math.sqrt(1 - sine**2)
    start = 20 + gap + reach * cosine
    motion = run([[20, 40 - reach * sine], [start, 40]], [[speed, 0], [0, 0]], [4, 6], [m1, m2], 5, box=1000)
    struck = 2 * m1 / (m1 + m2) * speed * cosine * float64([cosine, sine])
    first, second = motion.velocities[4]
    torch.testing.assert_close(second, struck, **EXACT)
    torch.testing.assert_close(first, float64([speed, 0.0]) - m2 / m1 * struck, **EXACT)
    assert abs((first * second).sum()) < 1e-9 or m1 != m2  # equal masses part at a right angle
    torch.testing.assert_close(motion.positions[4, 1], float64([start, 40]) + struck * (4 - gap / speed), **EXACT)


@pytest.mark.parametrize("speed", [0.3, 7.0, 61.0, 5000.3])
def test_walls_fold_the_straight_line(speed, device):
    """Between walls r and box - r each coordinate is a triangle wave, for any number of impacts per frame."""
    radius, start, velocity = 5.0, [20.0, 33.0], [speed, -0.37 * speed]
    motion = run([start], [velocity], [radius], [2.0], 9, device=device)
    width = BOX - 2 * radius
    times = torch.arange(9).double()
    for axis in range(2):
        phase = (start[axis] - radius + velocity[axis] * times) % (2 * width)
        folded = radius + torch.where(phase < width, phase, 2 * width - phase)
        sign = torch.where(phase < width, 1.0, -1.0).double()
        torch.testing.assert_close(motion.positions[..., 0, axis], folded, atol=1e-8, rtol=0)
        torch.testing.assert_close(motion.velocities[..., 0, axis], sign * velocity[axis], **EXACT)
    assert not motion.colliding.any()


def test_a_corner_reverses_the_velocity():
    motion = run([[10, 10]], [[-2, -2]], [4], [1], 7)
    torch.testing.assert_close(motion.positions[6, 0], float64([10.0, 10.0]), **EXACT)
    torch.testing.assert_close(motion.velocities[6, 0], float64([2.0, 2.0]), **EXACT)


def test_a_row_of_touching_discs_passes_the_velocity_on():
    motion = run([[10, 30], [22, 30], [32, 30], [42, 30]], [[1, 0], [0, 0], [0, 0], [0, 0]], [5] * 4, [1] * 4, 5)
    torch.testing.assert_close(motion.velocities[4, :, 0], float64([0.0, 0.0, 0.0, 1.0]), **EXACT)
    assert motion.colliding.sum(0).tolist() == [1, 1, 1, 1] and motion.colliding[2].all()


def test_a_small_fast_disc_does_not_pass_through_another():
    """At 300 px per frame it is reflected by a disc of 4 px, and again by the left wall within the same frame."""
    motion = run([[6, 32], [40, 32]], [[300, 0], [0, 0]], [1, 2], [1, 1e12], 2)
    flown = 300 - (40 - 3 - 6)  # after the reflection at x = 37
    width = 37 - 1  # between the left wall and the heavy disc
    phase = flown % (2 * width)
    expected = 37 - (phase if phase < width else 2 * width - phase)
    assert motion.positions[1, 0, 0].item() == pytest.approx(expected, abs=1e-6)
    assert motion.colliding[1].all()
    assert motion.positions[1, 1, 0].item() == pytest.approx(40, abs=1e-6)


@pytest.mark.parametrize("speed", [1.6, 40.0])
def test_energy_is_conserved_and_discs_stay_apart_and_in_the_box(speed, device, draw_discs):
    """Tolerances over at least a thousand collisions: 1e-12 of the energy, 1e-9 px of overlap."""
    length = 2000 if speed < 10 else 120
    *state, radii, masses, present = (field.to(device) for field in draw_discs(8, 5, speed, seed=1))
    motion = simulate(*state, radii, masses, present, BOX, length)
    assert motion.colliding.sum() > 1000
    total = energy(motion.velocities, masses)
    assert (total / total[0] - 1).abs().max() < 1e-12
    low, high = (motion.positions - radii[..., None]).min(), (motion.positions + radii[..., None]).max()
    assert low > -1e-9 and high < BOX + 1e-9
    first, second = pairs(5, device)
    distance = (motion.positions[:, :, first] - motion.positions[:, :, second]).square().sum(-1).sqrt()
    assert -1e-9 < (distance - radii[:, first] - radii[:, second]).min() < 0.1


def test_momentum_and_angular_momentum_are_conserved_far_from_walls(draw_discs):
    """A cluster contracts in the middle of a box whose walls no disc can reach."""
    positions, _, radii, masses, present = draw_discs(16, 6, 1.0, seed=2)
    velocities = 0.2 * (BOX / 2 - positions) + torch.randn_like(positions)
    motion = simulate(positions + 5000, velocities, radii, masses, present, 10_000 + BOX, 40)
    assert motion.colliding.any(0).double().mean() > 0.9
    momentum = (masses[..., None] * motion.velocities).sum(-2)
    torch.testing.assert_close(momentum, momentum[:1].expand_as(momentum), **EXACT)
    (x, y), (u, v) = (motion.positions - 5000).unbind(-1), motion.velocities.unbind(-1)
    angular = (masses * (x * v - y * u)).sum(-1)
    torch.testing.assert_close(angular, angular[:1].expand_as(angular), atol=1e-7, rtol=0)


def test_the_motion_is_reversible(draw_discs):
    *state, radii, masses, present = draw_discs(32, 4, 2.0, seed=3)
    there = simulate(*state, radii, masses, present, BOX, 21)
    assert (there.colliding.sum((0, 2)) > 0).double().mean() > 0.8
    back = simulate(there.positions[-1], -there.velocities[-1], radii, masses, present, BOX, 21)
    torch.testing.assert_close(back.positions.flip(0), there.positions, atol=1e-6, rtol=0)
    torch.testing.assert_close(back.velocities[-1], -there.velocities[0], atol=1e-6, rtol=0)


def test_fewer_frames_and_sequences_give_the_same_bits_and_arguments_are_unchanged(draw_discs):
    arguments = draw_discs(7, 4, 5.0, seed=4)
    before = [field.clone() for field in arguments]
    long = simulate(*arguments, BOX, 30)
    assert all(torch.equal(a, b) for a, b in zip(arguments, before, strict=True))
    for length in (1, 2, 13):
        short = simulate(*arguments, BOX, length)
        assert all(torch.equal(a, b[:length]) for a, b in zip(short, long, strict=True))
    one = simulate(*(field[4:5] for field in arguments), BOX, 30)
    assert all(torch.equal(a[:, 0], b[:, 4]) for a, b in zip(one, long, strict=True))


def test_absent_discs_do_not_move_or_collide():
    motion = run(
        [[10, 30], [30, 30], [30, 30]], [[2, 0], [9, 9], [9, 9]], [4, 8, 8], [1, 1, 1], 10, present=[True, False, False]
    )
    torch.testing.assert_close(motion.positions[:, 0, 0], 10 + 2 * torch.arange(10).double(), **EXACT)
    assert (motion.positions[:, 1:] == 30).all() and (motion.velocities[:, 1:] == 0).all()
    assert not motion.colliding.any()


def test_sequences_without_discs_can_be_in_a_batch_with_others(draw_discs):
    *state, radii, masses, _ = draw_discs(3, 3, 5.0, seed=6)
    present = torch.tensor([[False] * 3, [True] * 3, [False] * 3])
    state[0][~present] = 0.0  # all at one position, where no line of centres is defined
    motion = simulate(*state, radii, masses, present, BOX, 20)
    assert all(field.isfinite().all() for field in motion)
    assert (motion.velocities[:, ~present] == 0).all() and not motion.colliding[:, ~present].any()
    assert energy(motion.velocities, masses)[19, 1] > 0


@pytest.mark.parametrize(
    ("positions", "velocities"),
    [
        ([[20, 20], [30, 20]], [[0, 0], [0, 0]]),  # at rest in contact
        ([[20, 20], [30, 20]], [[0, 1], [0, 1]]),  # in contact, side by side
        ([[20, 20], [30, 20]], [[0, 0.5], [0, -0.5]]),  # rolling off each other
        ([[20, 20], [40, 30]], [[1, 0], [0, 0]]),  # grazing
        ([[5, 20], [59, 59]], [[0, 1], [0, 0]]),  # along a wall, and at rest in a corner
    ],
)
def test_contact_without_approach_is_no_collision(positions, velocities):
    motion = run(positions, velocities, [5, 5], [1, 1], 30)
    assert not motion.colliding.any()
    straight = torch.tensor(positions) + torch.arange(30)[:, None, None] * torch.tensor(velocities)
    torch.testing.assert_close(motion.positions, straight.double(), **EXACT)


def test_simultaneous_impacts_end_and_conserve_energy_and_momentum():
    """A disc hits two in contact at the same time. The result depends on the order, which is arbitrary."""
    motion = run([[30, 10], [25, 40], [35, 40]], [[0, 3], [0, 0], [0, 0]], [5, 5, 5], [2, 1, 1], 14, box=200)
    assert motion.colliding.any(0).all()
    masses = float64([2.0, 1.0, 1.0])
    torch.testing.assert_close(energy(motion.velocities[-1], masses), float64(9.0), **EXACT)
    momentum = (masses[:, None] * motion.velocities[-1]).sum(0)
    torch.testing.assert_close(momentum, float64([0.0, 6.0]), **EXACT)
