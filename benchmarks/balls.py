# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Bouncing-ball sequences of 51 frames per second on one core, with physics and collision masks.

Run as `OMP_NUM_THREADS=1 python benchmarks/balls.py`.
"""

from __future__ import annotations

import dataclasses
import time

import torch

from pyro_sqair.data import BallsConfig, BouncingBalls, coloured_balls, four_balls, six_to_eight_balls

LENGTH = 51
SECONDS = 4.0


def sequences_per_second(config: BallsConfig, batch: int) -> float:
    """Sequences per second in batches of `batch`, after a warm-up."""
    source = BouncingBalls(config)
    generator = torch.Generator().manual_seed(0)
    source.sample(batch, LENGTH, generator)
    drawn, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < SECONDS:
        source.sample(batch, LENGTH, generator)
        drawn += batch
    return drawn / elapsed


def main() -> None:
    """Prints a table: balls, frame, batch size, sequences per second."""
    torch.set_num_threads(1)
    whole = dataclasses.replace(four_balls(), crop=None)
    larger = dataclasses.replace(whole, radii=(5.0, 6.25))
    for name, config in (
        ("4 balls", whole),
        ("4 large balls", larger),
        ("4 balls", four_balls()),
        ("6-8 balls", six_to_eight_balls()),
        ("4 in colour", coloured_balls()),
    ):
        for batch in (32, 250):
            rate = sequences_per_second(config, batch)
            print(f"{name:>14}  {config.frame}x{config.frame}  batch {batch:>4}  {rate:>6.0f} sequences/s", flush=True)


if __name__ == "__main__":
    main()
