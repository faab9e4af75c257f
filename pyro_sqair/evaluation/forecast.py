# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Evaluation of a model as a simulator of later frames (Stanić & Schmidhuber 2019, Section 3)."""

from __future__ import annotations

from typing import Any

import torch

from pyro_sqair.data import Sequences
from pyro_sqair.evaluation.simulation import rollout_error, simulation_likelihood
from pyro_sqair.scene import Objects, Program
from pyro_sqair.tracking import Rollout, futures, standing_still


def simulate(
    model: Program, guide: Program, test: Sequences, seen: int, samples: int = 10
) -> tuple[dict[str, Any], Rollout]:
    """Imagines futures after the frames that the guide has seen, and compares them with the true frames.

    Args:
        model: a generative program whose renderer has a ``std``.
        guide: its inference program.
        test: held-out sequences with annotated collisions.
        seen: number of frames that the guide sees; the others are imagined.
        samples: number of futures of each sequence.

    Returns:
        The figures, and the last rollout on the CPU. ``data``, ``relational``, ``colliding`` and ``error`` are of a
        single future: means over samples, with standard deviations under ``..._std``. ``expected_error`` is the error
        of the mean of all futures. ``still_...`` are the figures of a forecast in which nothing moves.

    Raises:
        ValueError: if the sequences have no annotated collisions.
    """
    collisions = test.collisions
    if collisions is None:
        raise ValueError("expected sequences with collisions, which a simulator knows, got some without")
    frames = test.frames[:seen].to(next(model.parameters()).device)
    rollouts = [_on_cpu(rollout) for rollout in futures(model, guide, frames, len(test.frames), samples)]
    std = model.part("renderer").std

    def figures(rollout: Rollout) -> dict[str, float]:
        likelihood = simulation_likelihood(rollout.image, test.frames, collisions, seen, std)
        error = rollout_error(rollout, test.boxes, test.present, seen)
        colliding = float("nan") if likelihood.colliding is None else likelihood.colliding
        found = {"data": likelihood.data, "relational": likelihood.relational, "colliding": colliding}
        return found | {"error": error.overall, "lost": error.lost}

    every = [figures(rollout) for rollout in rollouts]
    values = {name: torch.tensor([f[name] for f in every], dtype=torch.float64) for name in every[0]}
    metrics: dict[str, Any] = {name: value.mean().item() for name, value in values.items()}
    metrics |= {f"{name}_std": value.std(correction=0).item() for name, value in values.items()}
    still = standing_still(rollouts[0], seen)
    metrics |= {f"still_{name}": value for name, value in figures(still).items() if name not in ("error", "lost")}
    for name, forecast in (("expected", rollouts), ("still", [still])):
        error = rollout_error(forecast, test.boxes, test.present, seen)
        metrics |= {f"{name}_error": error.overall, f"{name}_error_per_frame": error.per_frame}
    return metrics | {"seen": seen, "samples": samples}, rollouts[-1]


def _on_cpu(rollout: Rollout) -> Rollout:
    return Rollout(Objects(*(field.cpu() for field in rollout.objects)), rollout.image.cpu())
