# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""How many moving-digit sequences of 10 frames one core makes in a second.

Run as `OMP_NUM_THREADS=1 python benchmarks/data.py`.
"""

from __future__ import annotations

import time

import torch

from pyro_sqair.data import MotionConfig, MovingDigits, embedded_digits, gentle_motion, published_motion

LENGTH = 10
SECONDS = 3.0


def sequences_per_second(motion: MotionConfig, batch: int) -> float:
    """Rate of drawing 10-frame sequences in batches of `batch`, after a warm-up."""
    source = MovingDigits(embedded_digits("train"), motion)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        source.sample(batch, LENGTH, generator)
    drawn, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < SECONDS:
        source.sample(batch, LENGTH, generator)
        drawn += batch
    return drawn / elapsed


def main() -> None:
    """Prints a table: motion, batch size, sequences a second."""
    torch.set_num_threads(1)
    for name, motion in (("published", published_motion()), ("gentle", gentle_motion())):
        for batch in (32, 128, 512):
            print(f"{name:>10}  batch {batch:>4}  {sequences_per_second(motion, batch):>8.0f} sequences/s")


if __name__ == "__main__":
    main()
