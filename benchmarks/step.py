# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Times a training step of SQAIR, by default at the paper's size on all cores.

    python benchmarks/step.py
    python benchmarks/step.py --preset moving-mnist --lengths 3 10 --threads 1

Prints seconds a step (median and fastest), and the same as a ratio to the time of a matrix product of the size that a
step is made of, taken in the same run, since machines differ and are noisy. Weights are fresh, so every slot is in use:
a trained model, most of whose slots are empty, is faster on a CPU.
"""

import time
from dataclasses import dataclass
from statistics import median
from typing import Literal

import pyro
import torch
import tyro

from pyro_sqair.experiments.presets import preset
from pyro_sqair.infer import VIMCO


@dataclass
class Arguments:
    """Command line."""

    preset: Literal["embedded-digits", "moving-mnist", "paper"] = "paper"
    """whose sizes to take"""
    lengths: tuple[int, ...] = (3, 10)
    """frames in a sequence"""
    batch_size: int = 32
    particles: int = 5
    repeats: int = 10
    threads: int | None = None
    device: str = "cpu"


def timed(function, repeats: int, device: str) -> list[float]:
    """Seconds of each call, after two that do not count."""
    seconds = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        function()
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds[2:]


def main(args: Arguments) -> None:
    """Measures and prints."""
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    experiment = preset(args.preset)
    model, guide = (program.to(args.device) for program in experiment.programs())
    objective = VIMCO(num_particles=args.particles)(model, guide)
    optimizer = torch.optim.Adam(objective.parameters(), 1e-5, fused=True)
    rows, units = args.particles * args.batch_size, experiment.system.hidden_size
    left, right = torch.randn(rows, units, device=args.device), torch.randn(units, units, device=args.device)
    product = median(timed(lambda: [left @ right for _ in range(100)], args.repeats, args.device)) / 100
    count = sum(parameter.numel() for parameter in objective.parameters())
    print(f"{args.preset}: {count:,} parameters, batch {args.batch_size}, K={args.particles}, {args.device}, ", end="")
    print(f"{torch.get_num_threads()} threads; one {rows}x{units}x{units} product {product * 1e6:.0f} us")
    with pyro.validation_enabled(False):
        for length in args.lengths:
            size = (experiment.scene.channels, *experiment.scene.image_size)
            frames = torch.rand(length, args.batch_size, *size, device=args.device)

            def step(frames=frames, length=length) -> None:
                optimizer.zero_grad(set_to_none=True)
                (objective(frames) / length).backward()
                torch.nn.utils.clip_grad_norm_(objective.parameters(), 300.0)
                optimizer.step()

            seconds = timed(step, args.repeats, args.device)
            ratio = median(seconds) / product
            print(f"T={length}: median {median(seconds):.3f} s, fastest {min(seconds):.3f} s, {ratio:,.0f} products")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
