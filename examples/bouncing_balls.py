# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""R-SQAIR (Stanić & Schmidhuber 2019): interactions of balls, learned from video and imagined further.

    python examples/bouncing_balls.py  # interaction network, 9 minutes on two cores
    python examples/bouncing_balls.py --size full --relations none interaction memory --out runs/balls-full  # on a GPU

Trains on four balls. Then the guide sees some frames and the model predicts the rest: of four balls, and of six to
eight, for which the same weights get eight slots. The same command continues where it stopped.
"""

import dataclasses
from pathlib import Path
from typing import Literal

from pyro_sqair.cli import run
from pyro_sqair.data.atomic import write_json
from pyro_sqair.evaluation import simulate
from pyro_sqair.experiments import BallVideos, preset
from pyro_sqair.experiments.report import validate
from pyro_sqair.scene import with_slots
from pyro_sqair.training.device import set_threads
from pyro_sqair.viz import draw_comparison, draw_errors, draw_prediction

SUFFIX = {"none": "", "interaction": "-in", "memory": "-rmc"}
COLUMNS = ("count_accuracy", "data", "relational", "error", "expected_error")


def main(
    relations: tuple[Literal["none", "interaction", "memory"], ...] = ("interaction",),
    size: Literal["small", "full"] = "small",
    out: Path = Path("runs/balls"),
    steps: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    seen: int = 4,
    sequences: int = 128,
) -> None:
    """Trains each kind, prints a table and draws it.

    Args:
        relations: which relation module: none (SQAIR), an interaction network, a relational memory core
        size: small takes minutes on two CPU cores; full is the paper's experiment, for a GPU
        out: folder of the runs, one for each kind of relations
        steps: train for another number of steps than the preset's
        device: "auto" takes a GPU where there is one
        threads: CPU threads; 1 beside another training
        seed: of the initial weights, the data and all draws
        seen: frames that the guide sees, of ten
        sequences: held-out sequences to evaluate on
    """
    set_threads(threads)
    results, table = {}, [f"{'nats a frame, pixels':33}" + "".join(f"{name:>16}" for name in COLUMNS)]
    for kind in relations:
        preset_name = {"small": "small-balls", "full": "balls"}[size] + SUFFIX[kind]
        experiment = preset(preset_name).with_training(steps=steps, seed=seed)
        _, model, guide = experiment.train(out / kind, device=device)
        more = BallVideos(dataclasses.replace(experiment.videos.balls, min_balls=6, max_balls=8))
        tests = {"4 balls": ((model, guide), experiment.held_out(sequences))}
        tests["6-8 balls"] = with_slots(8, model, guide), more.held_out(sequences, experiment.test_frames, seed=1)
        results[kind], errors = {}, {}
        for name, (pair, test) in tests.items():
            found, rollout = simulate(*pair, test, seen)
            results[kind][name] = found = validate(*pair, test) | found
            still = ["", *(f"{found['still_' + column]:.2f}" for column in ("data", "relational", "error", "error"))]
            table.append(f"{kind + ', ' + name:33}" + "".join(f"{found[column]:16.2f}" for column in COLUMNS))
            table.append(f"{'  if they stood still':33}" + "".join(f"{word:>16}" for word in still))
            errors |= {name: found["expected_error_per_frame"], f"{name}, still": found["still_error_per_frame"]}
            draw_prediction(test.frames, rollout, seen, out / kind / f"{name.replace(' ', '-')}.png")
        draw_errors(errors, out / kind / "error.png")
    write_json(out / "simulation.json", results)
    draw_comparison(results, "relational", out / "relational.png", "nats a frame, pixels of colliding balls")
    print(*table, f"pictures: {out}/relational.png, */error.png and */*-balls.png", sep="\n")


if __name__ == "__main__":
    raise SystemExit(run(main))
