# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Event-driven simulation of elastic collisions of discs in a box."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Minimum approach speed of a collision, relative to the highest speed that the energy allows. Rounding errors of the
# velocity after a collision are a thousand times smaller, so that a pair in contact does not collide endlessly.
_TOUCH = 1e-12


class Motion(NamedTuple):
    """Trajectories of M discs in T frames of B sequences; frame t is at time t.

    Attributes:
        positions: centres (x, y), float64 [T, B, M, 2]; absent discs keep their initial position.
        velocities: (x, y) per frame, float64 [T, B, M, 2]; at the time of a collision, those after it.
        colliding: whether the disc collided with another in the time interval (t - 1, t], bool [T, B, M]; walls do not
            count.
    """

    positions: Tensor
    velocities: Tensor
    colliding: Tensor


def pairs(discs: int, device: torch.device | str = "cpu") -> Tensor:
    """Index pairs of different discs, the smaller index first, sorted: int64 [2, discs * (discs - 1) / 2]."""
    return torch.triu_indices(discs, discs, offset=1, device=device)


def simulate(
    positions: Tensor, velocities: Tensor, radii: Tensor, masses: Tensor, present: Tensor, box: float, length: int
) -> Motion:
    """Simulates discs that move uniformly between elastic collisions with walls and with each other.

    There is no time step: collision times are roots of the equations of motion, so fast discs do not pass through
    others. The cost is proportional to the largest number of collisions in a sequence. A shorter `length` gives
    bitwise the first frames of a longer one.

    Args:
        positions: centres (x, y) at frame 0, float64 [B, M, 2], in the box and without overlap.
        velocities: (x, y) per frame, float64 [B, M, 2].
        radii: float64 [B, M].
        masses: float64 [B, M], positive.
        present: which discs exist, bool [B, M]; the others neither move nor collide.
        box: side of the square box, with a corner at the origin.
        length: number of frames T.
    """
    x, v = positions, torch.where(present[..., None], velocities, 0.0)
    pair = pairs(x.shape[1], x.device)
    both = present[:, pair[0]] & present[:, pair[1]]
    energy = (masses[..., None] * v.square()).sum((-1, -2))
    slowest = _TOUCH * (energy / torch.where(present, masses, torch.inf).amin(-1)).sqrt()

    now = torch.zeros_like(energy)
    segments = [(now, x, v)]
    met = []
    while True:
        delay, event = _next(x, v, radii, pair, both, slowest, box)
        now = now + delay
        running = now <= length - 1
        # The only host synchronisation of the loop; the number of collisions is not known in advance.
        if not running.any():
            break
        x = x + v * torch.where(running, delay, 0.0)[:, None, None]
        v = _bounce(x, v, masses, torch.where(running, event, -1), pair)
        now = torch.where(running, now, torch.inf)
        segments.append((now, x, v))
        met.append((now, event))
    return _frames(segments, met, pair, length)


def _next(
    x: Tensor, v: Tensor, radii: Tensor, pair: Tensor, both: Tensor, slowest: Tensor, box: float
) -> tuple[Tensor, Tensor]:
    """The next impact of each sequence.

    Returns:
        The time until then, [B], infinite if nothing moves; and its index, int64 [B]: 2 * disc + axis for a wall,
        2 * M + pair for a pair in the order of `pairs`.
    """
    gap = torch.where(v > 0, box - radii[..., None] - x, x - radii[..., None]).clamp(min=0.0)
    wall = torch.where(v == 0, torch.inf, gap / v.abs())

    first, second = pair
    reach = radii[:, first] + radii[:, second]
    (dx, dy), (du, dv) = ((z[:, second] - z[:, first]).unbind(-1) for z in (x, v))
    # Smaller root of |d + w t| = reach, for offset d and relative velocity w, in the form without cancellation. The
    # root of the discriminant is reach * approach speed at impact.
    along = dx * du + dy * dv
    discriminant = reach.square() * (du.square() + dv.square()) - (dx * dv - dy * du).square()
    root = discriminant.clamp(min=0.0).sqrt()
    distance = (dx.square() + dy.square() - reach.square()).clamp(min=0.0)
    meets = both & (along < 0) & (root > slowest[:, None] * reach)
    delays = torch.cat([wall.flatten(1), torch.where(meets, distance / (root - along), torch.inf)], -1)
    delay, event = delays.min(-1)
    return delay, event


def _bounce(x: Tensor, v: Tensor, masses: Tensor, event: Tensor, pair: Tensor) -> Tensor:
    """Velocities [B, M, 2] after an elastic impact at positions x; event -1 changes nothing."""
    walls = 2 * v.shape[1]
    hit = (event[:, None] == torch.arange(walls, device=v.device)).view_as(v)
    v = torch.where(hit, -v, v)
    if pair.shape[1] == 0:
        return v
    rows = torch.arange(len(v), device=v.device)
    first, second = pair[:, (event - walls).clamp(min=0)]
    normal = x[rows, second] - x[rows, first]
    normal = normal / normal.square().sum(-1, keepdim=True).sqrt()
    closing = ((v[rows, first] - v[rows, second]) * normal).sum(-1)
    m1, m2 = masses[rows, first], masses[rows, second]
    # In the centre-of-mass frame, the normal component is reversed and the tangential one is unchanged.
    impulse = (2.0 * m1 * m2 / (m1 + m2) * closing)[:, None] * normal
    impulse = torch.where((event >= walls)[:, None], impulse, 0.0)
    v[rows, first] -= impulse / m1[:, None]
    v[rows, second] += impulse / m2[:, None]
    return v


def _frames(
    segments: list[tuple[Tensor, Tensor, Tensor]], met: list[tuple[Tensor, Tensor]], pair: Tensor, length: int
) -> Motion:
    """Evaluates the piecewise linear trajectories at integer times."""
    starts, x, v = (torch.stack(field) for field in zip(*segments, strict=True))  # [K, B], [K, B, M, 2]
    _, batch, discs, _ = x.shape
    times = torch.arange(length, dtype=starts.dtype, device=starts.device)
    # Starts are sorted, so frame t is on the last segment that starts at or before time t.
    last = torch.searchsorted(starts.T.contiguous(), times.expand(batch, length).contiguous(), right=True).T - 1
    rows = torch.arange(batch, device=x.device)
    since = times[:, None] - starts[last, rows]
    velocities = v[last, rows]
    positions = x[last, rows] + velocities * since[..., None, None]

    # An additional frame and disc receive impacts after the end and with walls.
    colliding = torch.zeros(length + 1, batch, discs + 1, dtype=torch.bool, device=x.device)
    if met and pair.shape[1]:
        when, event = (torch.stack(field) for field in zip(*met, strict=True))
        frame = when.ceil().clamp(max=length).long()
        both = torch.where(event >= 2 * discs, pair[:, (event - 2 * discs).clamp(min=0)], discs)
        colliding[frame, rows, both[0]] = True
        colliding[frame, rows, both[1]] = True
    return Motion(positions, velocities, colliding[:length, :, :discs].clone())
