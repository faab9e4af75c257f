# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Collisions against a second simulator in plain Python, one sequence at a time.

It shares no formula with the first: the plane is that of the complex numbers, impacts are the smaller root of the
quadratic equation as in textbooks, and velocities are mirrored in the frame of the centre of mass.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import pytest
import torch

from pyro_sqair.data.balls.collisions import simulate

BOX = 64.0


@dataclasses.dataclass
class Billiards:
    """Discs at time `now`; positions `x` and velocities `v` are complex numbers."""

    x: list[complex]
    v: list[complex]
    radii: list[float]
    masses: list[float]
    now: float = 0.0
    meetings: list[tuple[float, int, int]] = dataclasses.field(default_factory=list)  # time, two discs

    def run_until(self, end: float) -> None:
        """Moves everything to time `end`, impact by impact."""
        while True:
            delay, i, j = min(self._impacts(), default=(math.inf, 0, 0))
            stop = self.now + delay > end
            step = end - self.now if stop else delay
            self.x = [x + step * v for x, v in zip(self.x, self.v, strict=True)]
            self.now += step
            if stop:
                return
            if j < 0:  # a vertical wall reverses the real part, a horizontal one the imaginary part
                self.v[i] = -self.v[i].conjugate() if j == -2 else self.v[i].conjugate()
                continue
            centre = (self.masses[i] * self.v[i] + self.masses[j] * self.v[j]) / (self.masses[i] + self.masses[j])
            normal = (self.x[j] - self.x[i]) / abs(self.x[j] - self.x[i])
            for disc in (i, j):
                self.v[disc] = centre - ((self.v[disc] - centre) / normal).conjugate() * normal
            self.meetings.append((self.now, i, j))

    def colliding(self, frame: int) -> set[int]:
        """The discs that collided with another after the previous frame and not after this one."""
        return {disc for time, *both in self.meetings if frame - 1 < time <= frame for disc in both}

    def _impacts(self) -> Iterator[tuple[float, int, int]]:
        """Time until the impact, disc, and other disc or wall (-2 vertical, -1 horizontal)."""
        for i, (x, v, radius) in enumerate(zip(self.x, self.v, self.radii, strict=True)):
            for wall, place, speed in ((-2, x.real, v.real), (-1, x.imag, v.imag)):
                if speed != 0:
                    yield ((BOX - radius if speed > 0 else radius) - place) / speed, i, wall
            for j in range(i):
                d, w = x - self.x[j], v - self.v[j]
                a, b, c = abs(w) ** 2, 2 * (d * w.conjugate()).real, abs(d) ** 2 - (radius + self.radii[j]) ** 2
                if b < 0 and b * b > 4 * a * c:
                    yield max(0.0, (-b - math.sqrt(b * b - 4 * a * c)) / (2 * a)), i, j


def to_complex(vectors: torch.Tensor) -> list[complex]:
    """A list of complex numbers from [M, 2]."""
    return torch.view_as_complex(vectors.double().cpu().contiguous()).tolist()


def to_vectors(numbers: list[complex]) -> torch.Tensor:
    """Vectors [M, 2], float64."""
    return torch.view_as_real(torch.tensor(numbers, dtype=torch.complex128))


def compare(state, radii, masses, present, length, device="cpu", atol=1e-6):
    """Compares positions, velocities and the frames of collisions; returns the number of collisions."""
    motion = simulate(*(z.to(device) for z in (*state, radii, masses, present)), BOX, length)
    times = []
    for b in range(len(radii)):
        table = Billiards(*(to_complex(z[b]) for z in state), radii[b].tolist(), masses[b].tolist())
        for frame in range(length):
            table.run_until(frame)
            for found, expected in ((motion.positions, table.x), (motion.velocities, table.v)):
                torch.testing.assert_close(found[frame, b].cpu(), to_vectors(expected), atol=atol, rtol=0)
            assert set(motion.colliding[frame, b].nonzero()[:, 0].tolist()) == table.colliding(frame)
        times += [time for time, *_ in table.meetings]
    # At an integer time, rounding would decide which frame the collision belongs to.
    assert all(abs(time - round(time)) > atol for time in times)
    return len(times)


@pytest.mark.parametrize(("discs", "speed", "length"), [(2, 3.0, 60), (3, 2.0, 40), (5, 1.6, 25), (8, 20.0, 2)])
def test_agrees_with_a_second_simulator(discs, speed, length, device, draw_discs):
    """Each collision multiplies an error by about ten: over these frames a difference of 1e-15 stays below 1e-6."""
    *state, radii, masses, present = draw_discs(12, discs, speed, seed=discs)
    assert compare(state, radii, masses, present, length, device) > 12


def test_times_of_impact_agree_to_a_hundredth_of_a_frame(draw_discs):
    """At a hundredth of the speed, over a hundred times as many frames, the frame gives the time to 1/100."""
    positions, velocities, radii, masses, present = draw_discs(12, 4, 3.0, seed=21)
    assert compare([positions, velocities / 100], radii, masses, present, 600) > 6
