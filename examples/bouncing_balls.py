# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""R-SQAIR (Stanić & Schmidhuber 2019): what balls do to each other, learned from video, and imagined further.

    python examples/bouncing_balls.py                                       # interaction network, 9 minutes, two cores
    python examples/bouncing_balls.py --relations none interaction memory   # all three, one after the other
    python examples/bouncing_balls.py --size full --out runs/balls-full     # the paper's experiment, on a GPU

Trains on four balls. Then the guide sees some frames, the model imagines the rest, and both are compared: with four
balls, and with six to eight, of which training has never shown any. A second run continues the first.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
import tyro

from pyro_sqair.data import BouncingBalls, held_out, only_visible
from pyro_sqair.data.atomic import atomic_path
from pyro_sqair.experiments.presets import balls_preset, small_balls_preset
from pyro_sqair.experiments.report import simulate, validate
from pyro_sqair.infer import check_sites
from pyro_sqair.nn.relations import InteractionConfig, MemoryCoreConfig
from pyro_sqair.scene.program import with_slots
from pyro_sqair.training import Trainer
from pyro_sqair.viz import draw_comparison, draw_errors, draw_prediction

Kind = Literal["none", "interaction", "memory"]
RELATIONS = {"none": None, "interaction": InteractionConfig(), "memory": MemoryCoreConfig()}


@dataclass
class Arguments:
    """Command line."""

    relations: tuple[Kind, ...] = ("interaction",)
    """what balls know of each other: nothing (SQAIR), an interaction network, a relational memory core"""
    size: Literal["small", "full"] = "small"
    """small: minutes on two CPU cores; full: the paper's experiment, on a GPU"""
    out: Path = Path("runs/balls")
    """folder of the runs, one for each kind of relations"""
    steps: int | None = None
    """train for another number of steps"""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    threads: int | None = None
    """CPU threads; 1 beside another training"""
    seed: int = 0
    seen: int = 4
    """frames that the guide sees before the model imagines the rest"""
    imagined: int = 6
    sequences: int = 128
    """held-out sequences to judge on"""


def run(kind: Kind, args: Arguments) -> dict[str, dict]:
    """Trains one system and judges its simulations of four balls, and of six to eight."""
    experiment = (small_balls_preset if args.size == "small" else balls_preset)(RELATIONS[kind])
    steps = args.steps or experiment.training.steps
    config = dataclasses.replace(experiment.training, seed=args.seed, steps=steps, threads=args.threads)
    more = dataclasses.replace(experiment.videos.balls, min_balls=6, max_balls=8)
    length = args.seen + args.imagined
    four, many = (
        only_visible(held_out(BouncingBalls(balls), args.sequences, length, seed=1)).to(args.device)
        for balls in (experiment.videos.balls, more)
    )
    torch.manual_seed(args.seed)
    model, guide = (program.to(args.device) for program in experiment.programs())
    check_sites(model, guide, four.frames[:3, :8])
    out, train, elbo = args.out / kind, experiment.source("train", args.device), experiment.estimator()
    few = four.slice(slice(64))
    trainer = Trainer(
        model, guide, elbo, train, config, out, lambda _: validate(model, guide, few), experiment.identity()
    )
    if not trainer.complete():
        raise SystemExit("the same command continues")
    with trainer.averaged_weights():
        larger = with_slots(8, model, guide)  # the same weights, room for more
        results = {}
        for name, pair, test in (("4 balls", (model, guide), four), ("6-8 balls", larger, many)):
            figures, rollout = simulate(*pair, test, args.seen)
            results[name] = validate(*pair, test) | figures
            draw_prediction(test.frames, rollout, args.seen, out / f"{name.replace(' ', '-')}.png")
    return results


def main(args: Arguments) -> None:
    """Trains each kind, prints a table and draws it."""
    if args.seen < 1 or args.imagined < 1:
        raise ValueError(f"expected frames to see and to imagine, got {args.seen} and {args.imagined}")
    results = {kind: run(kind, args) for kind in args.relations}
    with atomic_path(args.out / "simulation.json") as path:
        path.write_text(json.dumps(results, indent=2) + "\n")
    print(
        f"the next {args.imagined} frames: nats a frame, over all pixels and those of colliding balls; errors in pixels"
    )
    print(f"{'':24}{'counting':>9}{'data':>10}{'relational':>11}{'of one future':>15}{'of their mean':>15}")
    for kind, found in results.items():
        for name, r in found.items():
            likelihood = f"{r['count_accuracy']:9.3f}{r['data']:10.1f}{r['relational']:11.2f}"
            print(f"{kind + ', ' + name:24}{likelihood}{r['error']:15.2f}{r['expected_error']:15.2f}")
            likelihood = f"{'':9}{r['still_data']:10.1f}{r['still_relational']:11.2f}"
            print(f"{'  if they stood still':24}{likelihood}{r['still_error']:15.2f}{r['still_error']:15.2f}")
        errors = {name: r["expected_error_per_frame"] for name, r in found.items()}
        errors |= {f"{name}, standing still": r["still_error_per_frame"] for name, r in found.items()}
        draw_errors(errors, args.out / kind / "error.png")
    draw_comparison(results, "relational", args.out / "relational.png", "nats a frame, pixels of colliding balls")
    print(f"pictures: {args.out}/relational.png and */4-balls.png, */6-8-balls.png, */error.png")


if __name__ == "__main__":
    assert set(RELATIONS) == set(get_args(Kind))
    main(tyro.cli(Arguments))
