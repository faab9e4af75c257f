# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""A synthetic recording of a static camera: rectangles that move in front of a textured scene, and their boxes."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

WIDTH, HEIGHT, LENGTH = 96, 80, 60


def walk(box: tuple[int, int, int, int], step: tuple[int, int]) -> np.ndarray:
    """Left, top, width, height of an object that moves by `step` a frame, [T, 4]."""
    return np.array(box) + np.arange(LENGTH)[:, None] * np.array([*step, 0, 0])


WALKERS = {7: walk((2, 4, 7, 12), (1, 0)), 3: walk((80, 60, 6, 10), (-1, 0)), 12: walk((40, -20, 8, 9), (0, 2))}
LEVELS = {7: 5, 3: 235, 12: 10}  # dark, bright, dark, against 60 to 120


def film(walkers: dict[int, np.ndarray], levels: dict[int, Any], scale: int = 1, noise: float = 0.0) -> np.ndarray:
    """Rectangles that move in front of a textured scene: blue, green, red, [T, H, W, 3]."""
    rng = np.random.default_rng(0)
    scene = rng.integers(60, 120, (HEIGHT * scale, WIDTH * scale, 1)).repeat(3, -1)
    frames = scene + rng.normal(0.0, noise, (LENGTH, *scene.shape)).round()
    for name, boxes in walkers.items():
        for t, (left, top, width, height) in enumerate((boxes * scale).tolist()):
            area = frames[t, max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
            area[:] = np.broadcast_to(levels[name], LENGTH)[t]
    return frames.clip(0, 255).astype(np.uint8)


def save(folder: Path, frames: np.ndarray) -> Path:
    folder.mkdir()
    for t, frame in enumerate(frames, 1):
        cv2.imwrite(str(folder / f"{t}.png"), frame)
    return folder


def save_mot(path: Path, walkers: dict[int, np.ndarray], scale: int = 1) -> Path:
    """The boxes that touch the frame, as ground truth with the id + 100 as class."""
    path.write_text(
        "".join(
            f"{t + 1},{name},{','.join(str(number * scale) for number in box)},1,{name + 100},1\n"
            for name, boxes in walkers.items()
            for t, box in enumerate(boxes.tolist())
            if 0 < box[0] + box[2] and box[0] < WIDTH and 0 < box[1] + box[3] and box[1] < HEIGHT
        )
    )
    return path
