# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Times the online filter, by default at the demo's size with few and many particles.

    python benchmarks/filter.py
    python benchmarks/filter.py --preset moving-mnist --particles 5 --threads 1

Prints frames a second (median), and the time of a frame as a ratio to that of drawing the same frame's objects once
from the guide alone, taken in the same run, since machines differ and are noisy; and the time of late frames as a ratio
to that of early ones, which is 1 if memory and time do not grow. Weights are fresh: with those of a trained model, most
of whose slots are empty, a frame is faster on a CPU.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Literal

import pyro
import torch
import tyro

from pyro_sqair.experiments.presets import preset
from pyro_sqair.tracking.filter import Filter


@dataclass
class Arguments:
    """Command line."""

    preset: Literal["embedded-digits", "moving-mnist", "paper"] = "embedded-digits"
    """whose sizes to take"""
    particles: tuple[int, ...] = (5, 100)
    batch_size: int = 1
    """videos tracked at a time"""
    frames: int = 100
    """how many are timed, after ten that do not count"""
    threads: int | None = None
    device: str = "cpu"


def timed(function: Callable[[], object], repeats: int, device: str) -> list[float]:
    """Seconds of each call, after ten that do not count."""
    seconds = []
    for _ in range(repeats + 10):
        start = time.perf_counter()
        function()
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds[10:]


def main(args: Arguments) -> None:
    """Measures and prints."""
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    experiment = preset(args.preset)
    model, guide = (program.to(args.device) for program in experiment.programs())
    size = (experiment.scene.channels, *experiment.scene.image_size)
    video = torch.rand(16, args.batch_size, *size, device=args.device)
    print(f"{args.preset}: batch {args.batch_size}, {args.device}, {torch.get_num_threads()} threads", end="; ")
    with pyro.validation_enabled(False), torch.no_grad():
        # From frame 1 on there is propagation; the second of two frames is the difference.
        one, two = (median(timed(lambda n=n: guide(video[:n]), args.frames, args.device)) for n in (1, 2))
        alone = max(two - one, 1e-9)
        print(f"the guide alone, one draw: {1 / alone:.0f} frames a second")
        for num_particles in args.particles:
            tracker = Filter(model, guide, num_particles)
            arrivals = iter(range(args.frames + 10))

            def step(tracker=tracker, arrivals=arrivals) -> None:
                tracker.update(video[next(arrivals) % len(video)])

            seconds = timed(step, args.frames, args.device)
            middle, tenth = median(seconds), max(len(seconds) // 10, 1)
            drift = median(seconds[-tenth:]) / median(seconds[:tenth])
            print(
                f"K={num_particles}: {1 / middle:.1f} frames a second, {middle / alone:.1f} times the guide alone, "
                f"late to early {drift:.2f}"
            )


if __name__ == "__main__":
    main(tyro.cli(Arguments))
