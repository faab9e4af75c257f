# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Times a training step with the parallel guide beside one with the paper's, for more and more objects.

    OMP_NUM_THREADS=1 python benchmarks/guides.py
    python benchmarks/guides.py --device cuda --slots 4 16 64

Prints milliseconds of a training step and of tracking one video, without particles or gradients, and the ratios: below
1 the parallel guide is faster. They take turns and the fastest of each counts, since machines are noisy. Weights are
fresh, and every slot is in use.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import pyro
import torch
import tyro

from pyro_sqair.guides import SQAIRGuide, parallel_guide
from pyro_sqair.infer import VIMCO
from pyro_sqair.models import SQAIR
from pyro_sqair.scene import SceneConfig


@dataclass
class Arguments:
    """Command line; the sizes are those of the embedded digits."""

    slots: tuple[int, ...] = (2, 4, 8, 16)
    """numbers N of slots"""
    length: int = 3
    """frames in a sequence"""
    what_dim: int = 16
    hidden_size: int = 128
    batch_size: int = 32
    particles: int = 5
    repeats: int = 10
    threads: int | None = None
    device: str = "cpu"


def alternate(functions: list[Callable[[], object]], repeats: int, device: str) -> list[float]:
    """Milliseconds of the fastest call of each, called in turn; the first round does not count."""
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats + 1):
        for function, times in zip(functions, seconds, strict=True):
            start = time.perf_counter()
            function()
            if device != "cpu":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return [1000 * min(times[1:]) for times in seconds]


def main(args: Arguments) -> None:
    """Measures and prints."""
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    threads = torch.get_num_threads()
    print(f"T={args.length}, batch {args.batch_size}, K={args.particles}, {args.device}, {threads} threads")
    print("           step, ms                   tracking, ms")
    print("   N   paper's  parallel  ratio     paper's  parallel  ratio")
    frames = torch.rand(args.length, args.batch_size, 1, 50, 50, device=args.device)
    for num_slots in args.slots:
        torch.manual_seed(0)
        scene = SceneConfig(num_slots, args.what_dim)
        steps: list[Callable[[], object]] = []
        tracks: list[Callable[[], object]] = []
        for build in (SQAIRGuide.build, parallel_guide):
            model, guide = (
                p.to(args.device) for p in (SQAIR.build(scene, args.hidden_size), build(scene, args.hidden_size))
            )
            torch.nn.init.constant_(guide.discovery.pres[-1].bias, 10.0)
            objective = VIMCO(num_particles=args.particles)(model, guide)

            def step(objective: torch.nn.Module = objective) -> None:
                objective.zero_grad(set_to_none=True)
                (objective(frames) / args.length).backward()

            def track(guide: SQAIRGuide = guide) -> None:
                with torch.no_grad():
                    guide(frames[:, :1])

            steps.append(step)
            tracks.append(track)
        with pyro.validation_enabled(False):
            ours = alternate(steps + tracks, args.repeats, args.device)
        rows = (f"{a:>8.0f}  {b:>8.0f}  {b / a:>5.2f}" for a, b in (ours[:2], ours[2:]))
        print(f"{num_slots:>4}  {'    '.join(rows)}")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
