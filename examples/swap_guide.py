# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Two guides for one model: the paper's, and one without its proposal glimpse (Appendices A and F).

    python examples/swap_guide.py              # scikit-learn's digits, 10 minutes on two cores
    python examples/swap_guide.py --steps 600  # a first look

An ablation is another object passed in. The same command continues where it stopped.
"""

from pathlib import Path

import torch

from pyro_sqair.cli import run
from pyro_sqair.experiments import preset
from pyro_sqair.experiments.report import evaluate
from pyro_sqair.guides import PropagationGuide, SQAIRGuide, WholeImage
from pyro_sqair.training import read_log
from pyro_sqair.training.device import set_threads

COLUMNS = ("count accuracy", "identity switches", "milliseconds a step")  # validation included


def main(
    out: Path = Path("runs/swap_guide"),
    steps: int = 2000,
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    sequences: int = 1000,
) -> None:
    """Trains, evaluates and compares.

    Args:
        out: folder of the two runs
        steps: of each training
        device: "auto" takes a GPU where there is one
        threads: CPU threads; 1 beside another training
        seed: of the initial weights, the data and all draws
        sequences: held-out sequences to evaluate on
    """
    set_threads(threads)
    experiment = preset("embedded-digits").with_training(steps=steps, seed=seed)
    test = experiment.held_out(sequences)

    torch.manual_seed(seed)  # of the weights of our own guide
    model, guide = experiment.programs()
    find, units = guide.discovery, experiment.system.hidden_size
    # Propagation sees the whole image, as discovery does, instead of a glimpse where the object is expected.
    follow = PropagationGuide(find.glimpse_encoder, units, view=WholeImage(find.image_encoder, units))
    pairs = {"paper": None, "no-proposal": (model, SQAIRGuide(find, follow, experiment.scene))}

    print(f"{'':<12}" + "".join(f"{column:>21}" for column in COLUMNS))
    for name, programs in pairs.items():
        run = experiment.train(out / name, device=device, programs=programs)
        found = evaluate(run.model, run.guide, test, num_particles=(5,), progress=True)
        seconds = read_log(out / name / "log.jsonl")[-1]["seconds"]
        values = found["count_accuracy"], found["id_switches"], 1000 * seconds / steps
        print(f"{name:<12}" + "".join(f"{value:>21.4g}" for value in values))


if __name__ == "__main__":
    raise SystemExit(run(main))
