# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Speed and memory of generating, writing and reading videos of moving digits.

Run as `OMP_NUM_THREADS=1 python benchmarks/data.py [--mnist DIR] [--sequences 60000]`. Without --mnist, the digits are
those of scikit-learn.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from pyro_sqair.data import (
    DigitImages,
    MotionConfig,
    MovingDigits,
    SequenceDataset,
    Source,
    embedded_digits,
    gentle_motion,
    mnist_digits,
    published_motion,
    write_sequences,
)

LENGTH = 10
SECONDS = 3.0


def per_second(draw: Callable[[], object], sequences: int) -> float:
    """Sequences per second, if each call of `draw` gives this many; after a warm-up."""
    for _ in range(3):
        draw()
    drawn, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < SECONDS:
        draw()
        drawn += sequences
    return drawn / elapsed


def drawing(source: Source, batch: int, length: int = LENGTH) -> float:
    """Sequences per second, drawn in batches."""
    generator = torch.Generator().manual_seed(0)
    return per_second(lambda: source.sample(batch, length, generator), batch)


def digits(mnist: str | None, split: str) -> DigitImages:
    """The digits of MNIST from a folder, or those of scikit-learn."""
    return embedded_digits(split) if mnist is None else mnist_digits(split, mnist)


def resident() -> float:
    """Peak resident memory of this process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def writing(folder: Path, mnist: str | None, sequences: int, motion: MotionConfig) -> Path:
    """Writes both splits in the published proportion, and prints time, size and memory."""
    start = time.perf_counter()
    for split, number, seed in (("train", sequences, 0), ("test", sequences // 6, 1)):
        path = folder / f"{split}.h5"
        source = MovingDigits(digits(mnist, split), motion)
        write_sequences(path, source, number, LENGTH, seed, generator="moving-digits", progress=False)
    seconds = time.perf_counter() - start
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    print(f"{sequences} + {sequences // 6} sequences written in {seconds:.1f} s, {size:.1f} MB on disk")
    print(f"{resident():.0f} MB resident at peak")
    return folder / "train.h5"


def main() -> None:
    """Prints the cost of writing, then the sequences per second of each way to get batches."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", help="folder with the four official files")
    parser.add_argument("--sequences", type=int, default=60_000, help="in the training file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        # First, as peak memory never decreases.
        path = writing(Path(folder), arguments.mnist, arguments.sequences, published_motion())
        images = digits(arguments.mnist, "train")
        for name, motion in (("published", published_motion()), ("gentle", gentle_motion())):
            for batch in (32, 128, 512):
                rate = drawing(MovingDigits(images, motion), batch)
                print(f"{name + ', generated':>22}  batch {batch:>4}  {rate:>8.0f} sequences/s")
        for name, in_memory in (("from disk", False), ("in memory", True)):
            start = time.perf_counter()
            dataset = SequenceDataset(path, in_memory)
            print(f"{name:>22}  opened in {time.perf_counter() - start:.2f} s")
            for batch in (32, 128, 512):
                print(f"{name:>22}  batch {batch:>4}  {drawing(dataset, batch):>8.0f} sequences/s")
            print(f"{name + ', 3 frames':>22}  batch   32  {drawing(dataset, 32, 3):>8.0f} sequences/s")


if __name__ == "__main__":
    main()
