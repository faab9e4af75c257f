# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Two guides for one model: the paper's, and one without its proposal glimpse.

    python examples/swap_guide.py              # scikit-learn's digits, 10 minutes on two cores
    python examples/swap_guide.py --steps 600  # a first look

An ablation is another object passed in. The same command continues where it stopped.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from pyro_sqair.data import held_out
from pyro_sqair.experiments.presets import preset
from pyro_sqair.experiments.report import evaluate, validate
from pyro_sqair.guides import PropagationGuide, SQAIRGuide, WholeImage
from pyro_sqair.infer import VIMCO, check_sites
from pyro_sqair.training import Trainer
from pyro_sqair.viz import save_image

COLUMNS = ("count accuracy", "identity switches", "milliseconds a step")  # validation included


@dataclass
class Arguments:
    """Command line."""

    out: Path = Path("runs/swap_guide")
    """folder of the two runs and the figure"""
    steps: int = 2000
    """of each training"""
    threads: int | None = None
    """CPU threads; 1 beside another training"""
    sequences: int = 1000
    """held-out sequences to evaluate on"""


def draw(results: dict[str, list[float]], path: Path) -> None:
    """Draws a panel for each column with a bar for each guide."""
    figure = Figure(figsize=(9, 3), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    values = zip(*results.values(), strict=True)
    for axes, column, heights in zip(figure.subplots(1, len(COLUMNS)), COLUMNS, values, strict=True):
        axes.bar_label(axes.bar(list(results), heights, color=["#0072B2", "#D55E00"]), fmt="%.4g")
        axes.set_title(column)
        axes.spines[["top", "right"]].set_visible(False)
    canvas.draw()
    save_image(Image.fromarray(np.array(canvas.buffer_rgba())[..., :3].copy()), path)


def main(args: Arguments) -> None:
    """Trains, evaluates and compares."""
    torch.set_num_threads(args.threads or torch.get_num_threads())
    experiment = preset("embedded-digits")
    config = dataclasses.replace(experiment.training, steps=args.steps)
    test, few = (held_out(experiment.source("test"), n, 10, seed) for n, seed in ((args.sequences, 1), (128, 2)))
    scene, units, results = experiment.scene, experiment.system.hidden_size, {}
    for name in ("paper", "no-proposal"):
        torch.manual_seed(0)
        model, guide = experiment.programs()
        if name == "no-proposal":  # propagation sees the whole image, as discovery does (paper, Appendices A and F)
            find = guide.discovery
            view = WholeImage(find.image_encoder, units)
            follow = PropagationGuide(find.glimpse_encoder, units, view=view)
            guide = SQAIRGuide(find, follow, scene)
        check_sites(model, guide, test.frames[:3])

        print(f"{name}: training for {args.steps} steps; Ctrl-C saves and stops")
        elbo, look = VIMCO(config.num_particles), lambda _, pair=(model, guide): validate(*pair, few)
        source, identity = experiment.source("train"), experiment.identity() | {"guide": name}
        trainer = Trainer(model, guide, elbo, source, config, args.out / name, look, identity)
        if not trainer.complete():
            return print("the same command continues")
        with trainer.averaged_weights():
            found = evaluate(model, guide, test, num_particles=(5,))
        results[name] = [found["count_accuracy"], found["id_switches"], 1000 * trainer.seconds / args.steps]

    print(f"{'':<12}" + "".join(f"{column:>21}" for column in COLUMNS))
    for name, values in results.items():
        print(f"{name:<12}" + "".join(f"{value:>21.4g}" for value in values))
    draw(results, args.out / "guides.png")
    print(f"picture: {args.out}/guides.png")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
