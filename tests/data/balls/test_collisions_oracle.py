# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Colliding discs, and videos of them, against a second simulator in plain Python, one sequence at a time.

It shares no formula with the other: impacts are the smaller root of the quadratic as in school, and velocities turn
round in the frame of the centre of mass.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from pyro_sqair.data import BouncingBalls, four_balls, six_to_eight_balls
from pyro_sqair.data.balls.collisions import simulate

BOX = 64.0


@dataclasses.dataclass
class Billiards:
    """Discs at time `now`; positions and velocities are lists of [x, y]."""

    positions: list[list[float]]
    velocities: list[list[float]]
    radii: list[float]
    masses: list[float]
    box: float
    now: float = 0.0
    meetings: list[tuple[float, int, int]] = dataclasses.field(default_factory=list)  # time, two discs

    def run_until(self, end: float) -> None:
        """Moves everything to time `end`, impact by impact."""
        while True:
            delay, what = self._next()
            if self.now + delay > end:
                self._advance(end - self.now)
                return
            self._advance(delay)
            if what[0] == "wall":
                self.velocities[what[1]][what[2]] *= -1.0
            else:
                self._collide(what[1], what[2])
                self.meetings.append((self.now, what[1], what[2]))

    def colliding(self, frame: int) -> set[int]:
        """The discs that met another after the frame before and not after this one."""
        return {disc for time, *both in self.meetings if frame - 1 < time <= frame for disc in both}

    def _advance(self, delay: float) -> None:
        for position, velocity in zip(self.positions, self.velocities, strict=True):
            for axis in range(2):
                position[axis] += velocity[axis] * delay
        self.now += delay

    def _next(self) -> tuple[float, tuple]:
        options = [(math.inf, ("none",))]
        discs = range(len(self.positions))
        for i in discs:
            for axis in range(2):
                place, speed = self.positions[i][axis], self.velocities[i][axis]
                if speed > 0:
                    options.append(((self.box - self.radii[i] - place) / speed, ("wall", i, axis)))
                elif speed < 0:
                    options.append(((self.radii[i] - place) / speed, ("wall", i, axis)))
            for j in range(i):
                delay = self._meeting(i, j)
                if delay is not None:
                    options.append((delay, ("discs", j, i)))
        return min(options, key=lambda option: option[0])

    def _meeting(self, i: int, j: int) -> float | None:
        d = [self.positions[i][axis] - self.positions[j][axis] for axis in range(2)]
        w = [self.velocities[i][axis] - self.velocities[j][axis] for axis in range(2)]
        a = w[0] ** 2 + w[1] ** 2
        b = 2.0 * (d[0] * w[0] + d[1] * w[1])
        c = d[0] ** 2 + d[1] ** 2 - (self.radii[i] + self.radii[j]) ** 2
        if b >= 0 or b * b - 4 * a * c <= 0:
            return None
        return max(0.0, (-b - math.sqrt(b * b - 4 * a * c)) / (2 * a))

    def _collide(self, i: int, j: int) -> None:
        angle = math.atan2(self.positions[j][1] - self.positions[i][1], self.positions[j][0] - self.positions[i][0])
        total = self.masses[i] + self.masses[j]
        centre = [
            (self.masses[i] * self.velocities[i][axis] + self.masses[j] * self.velocities[j][axis]) / total
            for axis in range(2)
        ]
        for disc in (i, j):
            x, y = (self.velocities[disc][axis] - centre[axis] for axis in range(2))
            # Turned so that the line of centres is the x axis, mirrored there, and turned back.
            along = -(math.cos(angle) * x + math.sin(angle) * y)
            across = -math.sin(angle) * x + math.cos(angle) * y
            self.velocities[disc] = [
                centre[0] + math.cos(angle) * along - math.sin(angle) * across,
                centre[1] + math.sin(angle) * along + math.cos(angle) * across,
            ]


def float64(values):
    return torch.tensor(values, dtype=torch.float64)


def drawn(batch, discs, speed, seed, radii=(3.0, 7.0), masses=(0.5, 8.0)):
    """Discs at random, each in a cell of its own of a 3 x 3 grid: positions, velocities, radii, masses."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(*shape, dtype=torch.float64, generator=generator)

    radius, mass = uniform(*radii, batch, discs), uniform(*masses, batch, discs)
    cells = torch.stack([torch.randperm(9, generator=generator)[:discs] for _ in range(batch)])
    cell, slack = BOX / 3, (BOX / 3 - 2 * radius)[..., None]
    corner = torch.stack([cells % 3, cells // 3], -1) * cell
    positions = corner + radius[..., None] + slack * uniform(0.0, 1.0, batch, discs, 2)
    velocities = speed * torch.randn(batch, discs, 2, dtype=torch.float64, generator=generator)
    return positions, velocities, radius, mass


def everyone(radii):
    return torch.ones_like(radii, dtype=torch.bool)


def against_plain_python(state, radii, masses, length, device="cpu", atol=1e-6):
    """Compares positions, velocities and who collides when; returns the number of collisions."""
    motion = simulate(*(z.to(device) for z in (*state, radii, masses, everyone(radii))), BOX, length)
    found, met = [], 0
    for b in range(len(radii)):
        table = Billiards(*(z[b].tolist() for z in (*state, radii, masses)), BOX)
        for frame in range(length):
            table.run_until(frame)
            flat = [motion.positions[frame, b].cpu(), motion.velocities[frame, b].cpu()]
            expected = float64([table.positions, table.velocities])
            torch.testing.assert_close(torch.stack(flat), expected, atol=atol, rtol=0)
            assert set(motion.colliding[frame, b].nonzero()[:, 0].tolist()) == table.colliding(frame)
        met += len(table.meetings)
        found += table.meetings
    # Which frame a collision belongs to would be a matter of rounding at a whole time.
    assert all(abs(time - round(time)) > atol for time, _, _ in found if time > 0)
    return met


@pytest.mark.parametrize(("discs", "speed", "length"), [(2, 3.0, 60), (3, 2.0, 40), (5, 1.6, 25), (8, 20.0, 2)])
def test_agrees_with_a_second_simulator(discs, speed, length, device):
    """Each collision multiplies an error by about ten: over these few a difference of 1e-15 stays below 1e-6."""
    *state, radii, masses = drawn(12, discs, speed, seed=discs)
    assert against_plain_python(state, radii, masses, length, device) > 12


def test_times_of_impact_agree_to_a_hundredth_of_a_frame():
    """A hundred times slower, over a hundred times the frames: which frame collides is the time to 1/100."""
    positions, velocities, radii, masses = drawn(12, 4, 3.0, seed=21)
    assert against_plain_python([positions, velocities / 100], radii, masses, 600) > 6


@pytest.mark.parametrize("config", [four_balls(), six_to_eight_balls()], ids=["4", "6-8"])
def test_videos_show_what_the_second_simulator_says(config, device, motions):
    """From the state in frame 0."""
    length, radii, masses = 10, float64(config.radii), float64(config.masses)
    source = BouncingBalls(dataclasses.replace(config, speed=4.0), device)
    data = source.sample(20, length, torch.Generator(device).manual_seed(5)).to("cpu")
    events = 0
    positions, velocities, colliding = (z.cpu() for z in motions[0])
    for b in range(20):
        n = int(data.count[0, b])
        kinds = data.labels[b, :n]
        start, speeds = positions[0, b, :n], velocities[0, b, :n]
        table = Billiards(*(z.tolist() for z in (start, speeds, radii[kinds], masses[kinds])), BOX)
        for t in range(length):
            table.run_until(t)
            ours, theirs = positions[t, b, :n], torch.tensor(table.positions, dtype=torch.float64)
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
            torch.testing.assert_close(data.boxes[t, b, :n, :2] + radii[kinds, None] + 7, ours, atol=1e-4, rtol=0)
            assert bool(colliding[t, b].any()) == bool(table.colliding(t))
        assert all(abs(time - round(time)) > 1e-3 for time, _, _ in table.meetings)
        events += len(table.meetings)
    assert events > 20
