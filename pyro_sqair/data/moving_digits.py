# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Generator of videos of moving, overlapping digits (Kosiorek et al. 2018, Section 5.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_sqair.data.digits import DigitImages
from pyro_sqair.data.sequences import LARGEST_SIDE, Sequences, check_draw, from_uint8, place_objects, require

_MAX_REDRAWS = 1000


@dataclass(frozen=True)
class MotionConfig:
    """Number and motion of the digits. Distances are in pixels and times in frames; the axes are independent.

    Attributes:
        canvas: side of the square frame; at most 512.
        min_digits: fewest digits in a sequence.
        max_digits: most digits in a sequence; all numbers from `min_digits` to this one are equally likely.
        max_speed: bound on the absolute velocity; the initial velocity is uniform within it. At most 1e6, as
            the next two.
        max_acceleration: the same for the acceleration.
        acceleration_noise: standard deviation of the noise added to the acceleration in every frame.
        leaves_frame: the top-left corner is reflected at 0 and, if True, at `canvas`, so that digits leave at the right
            and the bottom and return; if False, at `canvas` minus the size of the digit, so that they stay.
        tries: positions tried for a digit in the first frame before the whole sequence is drawn again; at
            most 1000.
    """

    canvas: int = 50
    min_digits: int = 0
    max_digits: int = 2
    max_speed: float = 10.0
    max_acceleration: float = 3.0
    acceleration_noise: float = 0.01
    leaves_frame: bool = True
    tries: int = 5

    def __post_init__(self) -> None:
        valid = 1 <= self.canvas <= LARGEST_SIDE and 1 <= self.tries <= _MAX_REDRAWS
        expected = f"canvas from 1 to {LARGEST_SIDE} and tries from 1 to {_MAX_REDRAWS}"
        require(valid, expected, f"{self.canvas} and {self.tries}")
        low, high = self.min_digits, self.max_digits
        valid = 0 <= low <= high and high >= 1
        require(valid, "0 <= min_digits <= max_digits and max_digits >= 1", f"{low} and {high}")
        for name in ("max_speed", "max_acceleration", "acceleration_noise"):
            value = getattr(self, name)
            require(0.0 <= value <= 1e6, f"{name} from 0 to 1e6, where float32 resolves a pixel", value)


def published_motion() -> MotionConfig:
    """The motion of the published moving MNIST: fast, accelerating, leaving the frame and returning."""
    return MotionConfig()


def gentle_motion() -> MotionConfig:
    """Slow, straight motion within the frame: for demonstrations and short trainings."""
    return MotionConfig(max_speed=2.0, max_acceleration=0.0, acceleration_noise=0.0, leaves_frame=False)


class MovingDigits:
    """An endless source of moving-digit videos, drawn on `device`.

    Args:
        digits: the images to draw from; no sequence contains an image twice.
        motion: their number and motion.
        device: where sequences are made, and where generators must be.

    Raises:
        ValueError: if images are not uint8 or are larger than the canvas, or there are fewer than `max_digits`.
    """

    def __init__(self, digits: DigitImages, motion: MotionConfig, device: torch.device | str = "cpu") -> None:
        number, side, _ = digits.images.shape
        require(digits.images.dtype == torch.uint8, "digits of type torch.uint8", digits.images.dtype)
        require(number >= motion.max_digits, f"at least {motion.max_digits} digit images", number)
        require(side <= motion.canvas, f"digits of at most {motion.canvas} px, the canvas", f"{side} px")
        self.motion = motion
        self.device = torch.device(device)
        digits = DigitImages(*(field.to(self.device) for field in digits))
        # The last image, at index -1, is blank and drawn for absent digits, so that drawing needs no mask.
        self._images = F.pad(digits.images, (0, 0, 0, 0, 0, 1))
        self._sizes = torch.stack([digits.heights, digits.widths], -1).float()
        self._labels = digits.labels

    def sample(self, batch: int, length: int, generator: torch.Generator) -> Sequences:
        """Draws `batch` sequences of `length` frames.

        The same generator state gives the same sequences; shorter ones are prefixes of longer ones. `count` and
        `present` include digits outside the frame.

        Raises:
            ValueError: if `batch` or `length` is below 1, or the generator is on another device.
        """
        check_draw(self, batch, length, generator)
        config = self.motion
        count = torch.randint(
            config.min_digits, config.max_digits + 1, (batch,), generator=generator, device=self.device
        )
        present = torch.arange(config.max_digits, device=self.device) < count[:, None]
        index, start = self._first_frame(count, generator)
        size = self._sizes[index]
        corners = self._trajectories(start, size, length, generator).round()
        frames = self._draw(torch.where(present, index, -1), corners)
        boxes = torch.cat([corners.flip(-1), size.flip(-1).expand_as(corners)], -1)
        return place_objects(frames, present, boxes, self._labels[index])

    def _first_frame(self, count: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Digits [B, M] and their top-left corners (y, x) [B, M, 2], with disjoint boxes within the frame."""
        index = torch.zeros(*count.shape, self.motion.max_digits, dtype=torch.int64, device=self.device)
        start = torch.zeros(*index.shape, 2, device=self.device)
        pending = torch.arange(len(count), device=self.device)
        for _ in range(_MAX_REDRAWS):
            index[pending], start[pending], placed = self._place(count[pending], generator)
            pending = pending[~placed]
            if len(pending) == 0:
                return index, start
        raise ValueError(
            f"expected digits that fit in the frame without overlap, got max_digits={self.motion.max_digits} on a "
            f"canvas of {self.motion.canvas} px, where {_MAX_REDRAWS} draws failed"
        )

    def _place(self, count: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """One attempt at a first frame: digits [B, M], corners [B, M, 2], and whether their boxes are disjoint [B]."""
        config = self.motion
        index = self._distinct(len(count), generator)
        size = self._sizes[index]
        uniform = torch.rand(*index.shape, config.tries, 2, generator=generator, device=self.device)
        tries = (uniform * (config.canvas - size)[:, :, None]).round()
        corners = tries[:, :, 0].clone()
        placed = torch.ones_like(count, dtype=torch.bool)
        for m in range(1, config.max_digits):
            # [B, tries, m]: whether the position overlaps the box of an earlier digit
            low, high = tries[:, m, :, None], (tries[:, m] + size[:, m, None])[:, :, None]
            others = corners[:, None, :m]
            touches = ((low < others + size[:, None, :m]) & (others < high)).all(-1)
            free = ~touches.any(-1)
            first = free.int().argmax(-1)
            corners[:, m] = tries[torch.arange(len(first), device=self.device), m, first]
            placed &= free.any(-1) | (count <= m)
        return index, corners, placed

    def _distinct(self, batch: int, generator: torch.Generator) -> Tensor:
        """Indices of digits [B, M], uniform and without repetition in a row."""
        total = len(self._labels)
        chosen = torch.empty(batch, 0, dtype=torch.int64, device=self.device)
        for m in range(self.motion.max_digits):
            new = torch.randint(total - m, (batch,), generator=generator, device=self.device)
            # The index counts only unchosen digits: skip the chosen ones in ascending order.
            for taken in chosen.sort(-1).values.unbind(-1):
                new = new + (new >= taken)
            chosen = torch.cat([chosen, new[:, None]], -1)
        return chosen

    def _trajectories(self, start: Tensor, size: Tensor, length: int, generator: torch.Generator) -> Tensor:
        """Top-left corners (y, x) over time, [T, B, M, 2], from those in the first frame."""
        config = self.motion
        velocity = self._symmetric(start, config.max_speed, generator)
        acceleration = self._symmetric(start, config.max_acceleration, generator)
        # As in the released generator, velocity and acceleration take one step before the first frame.
        velocity, acceleration = self._accelerate(velocity, acceleration, generator)
        upper = torch.full_like(size, config.canvas) if config.leaves_frame else config.canvas - size
        corner, corners = start, [start]
        for _ in range(length - 1):
            moved = corner + velocity
            velocity, acceleration = self._accelerate(velocity, acceleration, generator)
            below, above = moved < 0, moved > upper
            corner = torch.where(below, -moved, torch.where(above, 2 * upper - moved, moved))
            corner = torch.minimum(corner.clamp(min=0.0), upper)  # if a step is longer than the canvas
            sign = 1.0 - 2.0 * (below | above)
            velocity, acceleration = velocity * sign, acceleration * sign
            corners.append(corner)
        return torch.stack(corners)

    def _symmetric(self, like: Tensor, limit: float, generator: torch.Generator) -> Tensor:
        return torch.rand(like.shape, generator=generator, device=self.device) * (2 * limit) - limit

    def _accelerate(self, velocity: Tensor, acceleration: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        config = self.motion
        noise = torch.randn(velocity.shape, generator=generator, device=self.device)
        velocity = (velocity + acceleration).clamp(-config.max_speed, config.max_speed)
        acceleration = acceleration + config.acceleration_noise * noise
        return velocity, acceleration.clamp(-config.max_acceleration, config.max_acceleration)

    def _draw(self, index: Tensor, corners: Tensor) -> Tensor:
        """Frames [T, B, 1, H, W]: image index[b, m] at corners[t, b, m], with the maximum where digits overlap."""
        length, batch, _, _ = corners.shape
        side, canvas = self._images.shape[-1], self.motion.canvas
        # Corners are in [0, canvas]: a margin at the right and the bottom holds pixels outside the frame.
        wide = canvas + side
        pixels = torch.zeros(length * batch, wide * wide, dtype=torch.uint8, device=self.device)
        steps = torch.arange(side, device=self.device)
        offsets = (steps[:, None] * wide + steps).flatten()
        for m in range(index.shape[-1]):
            y, x = corners[:, :, m].long().unbind(-1)
            where = (y * wide + x).reshape(-1, 1) + offsets
            image = self._images[index[:, m]].reshape(batch, -1).repeat(length, 1)
            pixels.scatter_(1, where, torch.maximum(pixels.gather(1, where), image))
        frames = pixels.reshape(length, batch, 1, wide, wide)[..., :canvas, :canvas]
        return from_uint8(frames)
