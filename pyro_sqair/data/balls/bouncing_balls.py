# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Videos of colliding balls (van Steenkiste et al. 2018; Stanić & Schmidhuber 2019), generated on the fly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from pyro_sqair.data.balls.ball_rendering import footprint_side, footprints, paint
from pyro_sqair.data.balls.collisions import Motion, pairs, simulate
from pyro_sqair.data.sequences import LARGEST_SIDE, Sequences, check_draw, from_uint8, place_objects, require

_MAX_REDRAWS = 1000
# Placements per redraw: up to _TRIES, fewer if there are many pairs of balls, to bound memory.
_TRIES = 32
_PAIRS = 1024
# Sequences placed at construction as a check, in the worst case. If a tenth of the redraws is enough for them, it is
# very unlikely that a later draw fails.
_TRIALS = 64

# Frames rendered at a time, so that intermediate results stay in the cache.
_BLOCK = 256

_WHITE = ((1.0,),)
_PALETTE = (
    (0.90, 0.10, 0.10),
    (0.10, 0.75, 0.20),
    (0.20, 0.35, 1.00),
    (1.00, 0.85, 0.10),
    (0.85, 0.25, 0.90),
    (0.10, 0.85, 0.90),
    (1.00, 0.55, 0.10),
    (0.95, 0.95, 0.95),
)


@dataclass(frozen=True)
class BallsConfig:
    """Number, properties and appearance of the balls. Distances are in pixels, times in frames.

    The two kinds of ball are those of van Steenkiste et al. (2018, Appendix): one has 6 times the mass and 1.25 times
    the radius of the other. The radii in pixels are not published. Here balls of both kinds fit into the 7 px between
    crop and wall, where they are invisible. The speed is that of the original generator (Sutskever et al. 2008), half
    a unit for all balls together in a box of 10, converted to 4 balls and 64 pixels.

    Attributes:
        box: side of the square box in which the balls move; at most 512.
        crop: side of the central square that is the frame, which balls can leave and enter; None for the whole box.
        min_balls: minimum number of balls in a sequence.
        max_balls: maximum number of balls in a sequence; the number is uniform between the two.
        radii: of each kind of ball. The kind of a ball is uniform, and is its label.
        masses: of each kind.
        speed: root mean square over the balls of a sequence. The vector of all their velocities is uniform on a
            sphere, as in a gas of equal masses. So low that the lightest balls do not cross the box within a frame.
        colours: each with 1 channel (grey) or 3 (red, green, blue), in [0, 1]. The balls of a sequence get different
            colours in random order; colours repeat if there are more balls.
        curtain_width: of a vertical strip with the height of the frame that hides the balls behind it, at a random
            place in each sequence; 0 for none.
        curtain_brightness: grey level of that strip in [0, 1]; at 0 it looks like the background.
    """

    box: int = 64
    crop: int | None = 50
    min_balls: int = 4
    max_balls: int = 4
    radii: tuple[float, ...] = (2.4, 3.0)
    masses: tuple[float, ...] = (1.0, 6.0)
    speed: float = 1.6
    colours: tuple[tuple[float, ...], ...] = _WHITE
    curtain_width: int = 0
    curtain_brightness: float = 0.0

    def __post_init__(self) -> None:
        box, crop, low, high = self.box, self.crop, self.min_balls, self.max_balls
        radii, masses, colours = self.radii, self.masses, self.colours
        valid = 1 <= box <= LARGEST_SIDE and (crop is None or 1 <= crop <= box)
        require(valid, f"box from 1 to {LARGEST_SIDE} and crop None or from 1 to box", f"{box} and {crop}")
        valid = 0 <= low <= high and high >= 1
        require(valid, "0 <= min_balls <= max_balls and max_balls >= 1", f"{low} and {high}")
        kinds = len(radii) == len(masses) and radii
        require(kinds, "a radius and a mass for each kind", f"{radii} and {masses}")
        require(all(0.0 < 2.0 * r < box for r in radii), f"positive radii below half the box of {box} px", radii)
        # No packing of equal discs is denser than pi / sqrt(12).
        fit = high * max(radii) ** 2 <= box**2 / math.sqrt(12)
        require(fit, f"balls that fit into the box of {box} px", f"max_balls={high} of radius up to {max(radii)}")
        require(all(0.0 < mass < math.inf for mass in masses), "finite, positive masses", masses)
        # With equal kinetic energies, the balls of the lightest kind are faster by the root of the ratio of masses. The
        # simulation takes time for each collision, and a fast ball has one whenever it crosses the box.
        limit = (box - 2.0 * max(radii)) * math.sqrt(min(masses) / max(masses))
        expected = f"a speed from 0 to {limit:.4g} px a frame, at which the lightest balls cross the box in a frame"
        require(0.0 <= self.speed <= limit, expected, self.speed)
        channels = {len(colour) for colour in colours}
        require(channels in ({1}, {3}), "colours that all have 1 channel or all have 3", colours)
        require(all(0.0 <= value <= 1.0 for value in chain(*colours)), "colours within [0, 1]", colours)
        width, brightness = self.curtain_width, self.curtain_brightness
        require(0 <= width <= self.frame, f"curtain_width from 0 to {self.frame}, the frame", width)
        require(0.0 <= brightness <= 1.0, "curtain_brightness within [0, 1]", brightness)

    @property
    def frame(self) -> int:
        """Side of the square frame."""
        return self.box if self.crop is None else self.crop


def four_balls() -> BallsConfig:
    """Four balls of two masses, as R-SQAIR and R-NEM train on."""
    return BallsConfig()


def six_to_eight_balls() -> BallsConfig:
    """Six to eight of the same balls, to test generalisation of models trained on four."""
    return BallsConfig(min_balls=6, max_balls=8)


def coloured_balls() -> BallsConfig:
    """Four balls of two masses in different colours."""
    return BallsConfig(colours=_PALETTE)


def curtained_balls() -> BallsConfig:
    """Three equal balls and a black curtain that hides a third of the frame."""
    return BallsConfig(min_balls=3, max_balls=3, radii=(3.0,), masses=(1.0,), curtain_width=17)


class BouncingBalls:
    """A source of random bouncing-ball videos.

    Args:
        config: number, properties and appearance of the balls.
        device: of the sequences and of the generators passed to `sample`.

    Raises:
        ValueError: if no placement of `max_balls` of the largest kind without overlap is found.
    """

    def __init__(self, config: BallsConfig, device: torch.device | str = "cpu") -> None:
        self.config = config
        self.device = torch.device(device)
        self._radii, self._masses = (
            torch.tensor(values, dtype=torch.float64, device=self.device) for values in (config.radii, config.masses)
        )
        self._colours = torch.tensor(config.colours, device=self.device)
        largest = self._radii.max().expand(_TRIALS, config.max_balls)
        present = torch.ones_like(largest, dtype=torch.bool)
        self._place(largest, present, _MAX_REDRAWS // 10, torch.Generator(self.device).manual_seed(0))

    def sample(self, batch: int, length: int, generator: torch.Generator) -> Sequences:
        """Draws `batch` sequences of `length` frames, with `collisions`.

        The same generator state gives the same sequences; a shorter `length` gives the first frames of longer ones.
        `count` and `present` include a ball while it is outside the frame or hidden. Boxes are relative to the top left
        corner of the frame.

        A collision of two balls belongs to the first frame at or after its time. `collisions` has the pixels of the two
        balls, with their soft edges and without a curtain. Collisions with walls are ignored.

        Raises:
            ValueError: if `batch` or `length` is below 1, or the generator is on another device.
        """
        check_draw(self, batch, length, generator)
        config = self.config
        count = torch.randint(config.min_balls, config.max_balls + 1, (batch,), generator=generator, device=self.device)
        slots = torch.arange(config.max_balls, device=self.device)
        present = slots < count[:, None]
        kind = torch.randint(len(config.radii), present.shape, generator=generator, device=self.device)
        radii = self._radii[kind]
        start = self._place(radii, present, _MAX_REDRAWS, generator)
        velocities = self._velocities(present, generator)
        order = torch.rand(batch, len(self._colours), generator=generator, device=self.device).argsort(-1)
        colours = self._colours[order[:, slots % len(self._colours)]]
        hidden = self._curtain(batch, generator)

        motion = simulate(start, velocities, radii, self._masses[kind], present, config.box, length)
        centres = motion.positions - (config.box - config.frame) // 2
        frames, collisions = self._draw(motion._replace(positions=centres), radii, present, colours, hidden)

        size = (2.0 * radii)[..., None].expand(batch, config.max_balls, 2)
        boxes = torch.cat([centres - radii[..., None], size.expand_as(centres)], -1)
        return place_objects(frames, present, boxes, kind, collisions)

    def _place(self, radii: Tensor, present: Tensor, redraws: int, generator: torch.Generator) -> Tensor:
        """Centres [B, M, 2] in the box, uniform over all configurations without overlap.

        If any two balls overlap, all balls of the sequence are drawn again, which gives the uniform distribution. With
        equal masses it is invariant under the motion, so that all frames have the same distribution.
        """
        batch, balls = radii.shape
        first, second = pairs(balls, self.device)
        reach = radii[:, first] + radii[:, second]
        matters = present[:, first] & present[:, second]
        centres = torch.zeros(batch, balls, 2, dtype=torch.float64, device=self.device)
        pending = torch.arange(batch, device=self.device)
        together = max(1, min(_TRIES, _PAIRS // max(1, len(first))))
        for _ in range(redraws):
            radius = radii[pending][:, None, :, None]
            uniform = torch.rand(
                len(pending), together, balls, 2, dtype=torch.float64, generator=generator, device=self.device
            )
            tries = radius + uniform * (self.config.box - 2.0 * radius)
            apart = (tries[:, :, first] - tries[:, :, second]).square().sum(-1) > reach[pending][:, None].square()
            free = (apart | ~matters[pending][:, None]).all(-1)
            chosen = free.int().argmax(-1)
            centres[pending] = tries[torch.arange(len(pending), device=self.device), chosen]
            pending = pending[~free.any(-1)]
            if len(pending) == 0:
                return centres
        raise ValueError(
            f"expected balls that can be placed without overlap, got max_balls={balls} of radius up to "
            f"{max(self.config.radii)} in a box of {self.config.box} px, where {redraws * together} draws overlapped"
        )

    def _velocities(self, present: Tensor, generator: torch.Generator) -> Tensor:
        """Velocities [B, M, 2], with the square of the speed as their mean square over the balls of a sequence."""
        normal = torch.randn(*present.shape, 2, dtype=torch.float64, generator=generator, device=self.device)
        normal = torch.where(present[..., None], normal, 0.0)
        square = normal.square().sum((-1, -2)) / present.sum(-1)
        velocities = normal * (self.config.speed / square.sqrt())[:, None, None]
        return torch.where(present[..., None], velocities, 0.0)

    def _curtain(self, batch: int, generator: torch.Generator) -> Tensor:
        """Which columns of the frame are hidden, bool [B, W]."""
        width, frame = self.config.curtain_width, self.config.frame
        left = torch.randint(frame - width + 1, (batch, 1), generator=generator, device=self.device)
        columns = torch.arange(frame, device=self.device)
        return (columns >= left) & (columns < left + width)

    def _draw(
        self, motion: Motion, radii: Tensor, present: Tensor, colours: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Frames [T, B, C, H, W] and the pixels of colliding balls, bool [T, B, H, W]."""
        shape, size = motion.positions.shape[:2], self.config.frame
        brightness = torch.where(present[..., None], colours, 0.0)
        radii, brightness, hidden = (z.repeat(shape[0], *[1] * (z.dim() - 1)) for z in (radii, brightness, hidden))
        centres, colliding = motion.positions.flatten(0, 1), motion.colliding.flatten(0, 1).float()
        curtain = round(255 * self.config.curtain_brightness)
        side = footprint_side(max(self.config.radii))

        frames = torch.empty(len(centres), colours.shape[-1], size, size, device=self.device)
        collisions = torch.empty(len(centres), size, size, dtype=torch.bool, device=self.device)
        for start in range(0, len(centres), _BLOCK):
            block = slice(start, start + _BLOCK)
            discs = footprints(centres[block], radii[block], side, size)
            for channel, bright in zip(frames[block].unbind(1), brightness[block].unbind(-1), strict=True):
                pixels = paint(discs, bright, size)
                if self.config.curtain_width:
                    pixels = pixels.masked_fill(hidden[block, None], curtain)
                channel.copy_(from_uint8(pixels))
            torch.gt(paint(discs, colliding[block], size), 0, out=collisions[block])
        return frames.unflatten(0, shape), collisions.unflatten(0, shape)
