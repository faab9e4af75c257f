# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Discs in a box that collide elastically, from one exact time of impact to the next."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Discs that close in more slowly than this, as a share of the greatest speed that the energy allows, pass for
# touching. What rounding leaves of a velocity after a collision is a thousand times less: no pair meets for ever.
_TOUCH = 1e-12


class Motion(NamedTuple):
    """Where M discs are at T frames of B sequences; frame t shows time t.

    Attributes:
        positions: centres (x, y), float64 [T, B, M, 2]; absent discs stay where they were put.
        velocities: (x, y) a frame, float64 [T, B, M, 2]; after the collision where one happens at that very time.
        colliding: whether the disc met another after the frame before and not after this one, bool [T, B, M];
            walls do not count.
    """

    positions: Tensor
    velocities: Tensor
    colliding: Tensor


class Impact(NamedTuple):
    """The next impact in each of B sequences.

    Attributes:
        delay: time until then, [B]; infinite where nothing moves.
        event: which, int64 [B]: 2 * disc + axis for a wall, 2 * M + pair for a pair in the order of `pairs`.
    """

    delay: Tensor
    event: Tensor


def pairs(discs: int, device: torch.device | str = "cpu") -> Tensor:
    """All pairs of different discs, int64 [2, discs * (discs - 1) / 2]: the smaller index first, in order."""
    return torch.triu_indices(discs, discs, offset=1, device=device)


def simulate(
    positions: Tensor, velocities: Tensor, radii: Tensor, masses: Tensor, present: Tensor, box: float, length: int
) -> Motion:
    """Moves discs through `length` frames: straight lines, broken where a disc meets a wall or another disc.

    There is no time step: every segment ends at the earliest root of the equations of impact, so a disc of any
    speed meets whatever lies in its way. The work grows with the number of impacts, in the sequence that has
    most of them. Fewer frames give, bit by bit, the beginning of more.

    Args:
        positions: centres (x, y) at frame 0, float64 [B, M, 2]: discs in the box and apart.
        velocities: (x, y) a frame, float64 [B, M, 2].
        radii: float64 [B, M].
        masses: float64 [B, M], positive.
        present: which discs there are, bool [B, M]; the others neither move nor are met.
        box: side of the square box, whose corner is the origin.
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
        # The one host read of the loop: how often sequences collide is not known beforehand.
        if not running.any():
            break
        x = x + v * torch.where(running, delay, 0.0)[:, None, None]
        v = _bounce(x, v, masses, torch.where(running, event, -1), pair)
        now = torch.where(running, now, torch.inf)
        segments.append((now, x, v))
        met.append((now, event))
    return _frames(segments, met, pair, length)


def _next(x: Tensor, v: Tensor, radii: Tensor, pair: Tensor, both: Tensor, slowest: Tensor, box: float) -> Impact:
    """Which impact comes next, when nothing turns before it."""
    gap = torch.where(v > 0, box - radii[..., None] - x, x - radii[..., None]).clamp(min=0.0)
    wall = torch.where(v == 0, torch.inf, gap / v.abs())

    first, second = pair
    reach = radii[:, first] + radii[:, second]
    (dx, dy), (du, dv) = ((z[:, second] - z[:, first]).unbind(-1) for z in (x, v))
    # |d + w t| = reach, for offset d and relative velocity w. Of the two roots the earlier, in the form that
    # takes no difference of nearly equal numbers; the root of the discriminant is reach * closing speed at impact.
    along = dx * du + dy * dv
    discriminant = reach.square() * (du.square() + dv.square()) - (dx * dv - dy * du).square()
    root = discriminant.clamp(min=0.0).sqrt()
    distance = (dx.square() + dy.square() - reach.square()).clamp(min=0.0)
    meets = both & (along < 0) & (root > slowest[:, None] * reach)
    delays = torch.cat([wall.flatten(1), torch.where(meets, distance / (root - along), torch.inf)], -1)
    return Impact(*delays.min(-1))


def _bounce(x: Tensor, v: Tensor, masses: Tensor, event: Tensor, pair: Tensor) -> Tensor:
    """Velocities [B, M, 2] after an elastic impact at positions x; event -1 leaves them as they are."""
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
    # The component along the normal turns round in the frame of the centre of mass; the other one stays.
    impulse = (2.0 * m1 * m2 / (m1 + m2) * closing)[:, None] * normal
    impulse = torch.where((event >= walls)[:, None], impulse, 0.0)
    v[rows, first] -= impulse / m1[:, None]
    v[rows, second] += impulse / m2[:, None]
    return v


def _frames(
    segments: list[tuple[Tensor, Tensor, Tensor]], met: list[tuple[Tensor, Tensor]], pair: Tensor, length: int
) -> Motion:
    """Reads the broken lines at whole times."""
    starts, x, v = (torch.stack(field) for field in zip(*segments, strict=True))  # [K, B], [K, B, M, 2]
    _, batch, discs, _ = x.shape
    times = torch.arange(length, dtype=starts.dtype, device=starts.device)
    # A later start is never smaller, so frame t lies on the last segment that has begun by then.
    last = torch.searchsorted(starts.T.contiguous(), times.expand(batch, length).contiguous(), right=True).T - 1
    rows = torch.arange(batch, device=x.device)
    since = times[:, None] - starts[last, rows]
    velocities = v[last, rows]
    positions = x[last, rows] + velocities * since[..., None, None]

    # One frame and one disc more take what is no meeting of two discs before the end.
    colliding = torch.zeros(length + 1, batch, discs + 1, dtype=torch.bool, device=x.device)
    if met and pair.shape[1]:
        when, event = (torch.stack(field) for field in zip(*met, strict=True))
        frame = when.ceil().clamp(max=length).long()
        both = torch.where(event >= 2 * discs, pair[:, (event - 2 * discs).clamp(min=0)], discs)
        colliding[frame, rows, both[0]] = True
        colliding[frame, rows, both[1]] = True
    return Motion(positions, velocities, colliding[:length, :, :discs].clone())
