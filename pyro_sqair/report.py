# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""What a trained model and guide can do on held-out sequences: figures for a table, and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pyro_sqair.atomic import atomic_path
from pyro_sqair.data import Sequences
from pyro_sqair.evaluation import (
    count_accuracy,
    discoveries_per_frame,
    evaluate_likelihood,
    id_stability,
    identity_switches,
    rollout_error,
    simulation_likelihood,
)
from pyro_sqair.program import Program
from pyro_sqair.rollout import Rollout, futures, generate, infer_objects, predict, reconstruct, standing_still
from pyro_sqair.scene import Objects
from pyro_sqair.training import Trainer
from pyro_sqair.viz import animate_tracks, draw_curves, draw_prediction, draw_samples, draw_tracks


def validate(model: Program, guide: Program, test: Sequences) -> dict[str, float]:
    """A quick look during training: counting, identities and the bound of five particles, in nats a frame.

    Where nobody knows how many objects there are, the mean number of those inferred stands for counting.

    Args:
        model: a generative program.
        guide: its inference program.
        test: held-out sequences; a hundred or so will do.
    """
    likelihood = evaluate_likelihood(model, guide, test.frames, num_particles=(5,), chunk_sequences=128)
    metrics = {"bound": likelihood.iwae[5].per_frame}
    objects = infer_objects(guide, test.frames)
    if not judgeable(objects, test):
        return metrics | {"objects": objects.pres.sum(-1).mean().item()}
    metrics["count_accuracy"] = count_accuracy(objects.pres, test.count).overall
    kept = id_stability(objects, test.count).fraction
    return metrics if kept is None else metrics | {"ids_kept": kept}


def judgeable(objects: Objects, test: Sequences) -> bool:
    """Whether the program knows objects, and somebody has counted them: a recording without ground truth says -1."""
    return objects.pres.shape[-1] > 0 and bool((test.count >= 0).all())


def evaluate(
    model: Program, guide: Program, test: Sequences, num_particles: tuple[int, ...] = (5, 100)
) -> dict[str, Any]:
    """Counting, tracking and likelihood on held-out sequences, as plain numbers for JSON.

    Where nobody knows how many objects there are, there is no counting and no tracking.

    Args:
        model: a generative program.
        guide: its inference program.
        test: held-out sequences.
        num_particles: the numbers K of particles of the IWAE bounds.
    """
    objects = infer_objects(guide, test.frames)
    likelihood = evaluate_likelihood(model, guide, test.frames, num_particles=num_particles)
    return {
        "sequences": test.frames.shape[1],
        "frames": test.frames.shape[0],
        **(_found(objects) if objects.pres.shape[-1] else {}),
        **(_judged(objects, test) if judgeable(objects, test) else {}),
        **likelihood.summary(),
    }


def _found(objects: Objects) -> dict[str, Any]:
    """What can be said of the objects without ground truth."""
    return {
        "objects_per_frame": objects.pres.sum(-1).mean().item(),
        "discoveries_per_frame": discoveries_per_frame(objects),
    }


def _judged(objects: Objects, test: Sequences) -> dict[str, Any]:
    """What takes ground truth to say."""
    counting = count_accuracy(objects.pres, test.count)
    stability = id_stability(objects, test.count)
    height, width = test.frames.shape[-2:]
    tracking = identity_switches(objects, test.boxes, test.ids, (height, width))
    return {
        "count_accuracy": counting.overall,
        "count_accuracy_per_frame": counting.per_frame,
        "ids_kept": stability.fraction,
        "ids_kept_of_sequences": stability.counted,
        "id_switches": tracking.switches,
        "objects_missed": tracking.missed,
        "objects_spurious": tracking.spurious,
        "objects_matched": tracking.matched,
        "mean_iou": tracking.mean_iou,
    }


def simulate(
    model: Program, guide: Program, test: Sequences, seen: int, samples: int = 10
) -> tuple[dict[str, Any], Rollout]:
    """Lets the model go on from the frames that the guide has seen, and compares that with what happens.

    Args:
        model: a generative program whose renderer has a ``std``.
        guide: its inference program.
        test: held-out sequences with `collisions`.
        seen: how many frames the guide sees; the others are imagined.
        samples: how many futures are imagined of each sequence.

    Returns:
        The figures, and the last rollout. ``data``, ``relational``, ``colliding`` and ``error`` are of a single
        future: their means over samples, and under ``..._std`` their standard deviations. ``expected_error`` is that
        of the mean of all futures. Under ``still_...`` are those of a world in which nothing moves any more.

    Raises:
        ValueError: if the sequences have no `collisions`.
    """
    if test.collisions is None:
        raise ValueError("expected sequences with collisions, got some without")
    rollouts = futures(model, guide, test.frames[:seen], len(test.frames), samples)
    std = model.part("renderer").std

    def figures(rollout: Rollout) -> dict[str, float]:
        assert test.collisions is not None
        likelihood = simulation_likelihood(rollout.image, test.frames, test.collisions, seen, std)
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


def write_pictures(
    model: Program, guide: Program, test: Sequences, out: Path, given_counts: bool = False, seen: int = 3
) -> list[Path]:
    """Draws tracks, an animation, predictions and samples into a folder.

    Args:
        model: a generative program.
        guide: its inference program.
        test: held-out sequences; those with objects are shown.
        out: the folder.
        given_counts: whether samples begin with as many objects as were inferred, instead of drawing their number.
        seen: how many frames a prediction sees before it imagines the rest.

    Returns:
        The files.
    """
    # An empty sequence makes a dull picture; the order among the others stays as it is.
    busy = torch.argsort((test.count[0] == 0).long(), stable=True)[:12]
    frames = test.frames[:, busy]
    files = [out / name for name in ("tracks.png", "tracks.gif", "prediction.png", "samples.png")]
    tracks = reconstruct(model, guide, frames)
    draw_tracks(frames, tracks, files[0])
    animate_tracks(frames, tracks, files[1])
    draw_prediction(frames, predict(model, guide, frames[:seen], len(frames)), seen, files[2])
    count = tracks.objects.pres[0].sum(-1) if given_counts else None
    draw_samples(generate(model, frames, len(frames), count), files[3])
    return files


def write_report(
    trainer: Trainer, model: Program, guide: Program, test: Sequences, given_counts: bool = False
) -> dict[str, Any]:
    """Evaluates a training run with its averaged weights and writes metrics and pictures into its folder.

    Args:
        trainer: the run, finished or not.
        model: its generative program.
        guide: its inference program.
        test: held-out sequences.
        given_counts: see :func:`write_pictures`.

    Returns:
        The content of ``metrics.json``.
    """
    with trainer.averaged_weights():
        metrics = evaluate(model, guide, test)
        metrics |= {"steps": trainer.step, "seconds": round(trainer.seconds, 1)}
        with atomic_path(trainer.out / "metrics.json") as path:
            path.write_text(json.dumps(metrics, indent=2) + "\n")
        write_pictures(model, guide, test, trainer.out, given_counts)
    draw_curves(trainer.out / "log.jsonl", trainer.out / "curves.png")
    return metrics


def table(metrics: Mapping[str, Any]) -> str:
    """The figures of :func:`write_report` as a small table for a terminal."""
    rows: list[tuple[str, str]] = []
    if "objects_per_frame" in metrics:
        rows = [("objects", f"{metrics['objects_per_frame']:.2f} a frame found; nobody can say if that is right")]
    if "count_accuracy" in metrics:
        counts = metrics["count_accuracy_per_frame"]
        judged = f"of the {metrics['ids_kept_of_sequences']} sequences with objects, all counted right"
        rows = [
            ("count accuracy", f"{metrics['count_accuracy']:.4f}  (frame 1: {counts[0]:.3f}, last: {counts[-1]:.3f})"),
            ("ids kept", "-" if metrics["ids_kept"] is None else f"{metrics['ids_kept']:.4f}  ({judged})"),
            ("tracking", f"{metrics['id_switches']} identity switches in {metrics['objects_matched']} matched boxes"),
        ]
    for name, value in metrics.items():
        if name.startswith("iwae") and name.removeprefix("iwae_").isdigit():
            per_frame, error = metrics[f"{name}_per_frame"], metrics[f"{name}_stderr"]
            spread = "" if error is None else f" +- {error:.1f}"
            bound = f"{value:.1f}{spread} nats  ({per_frame:.1f} a frame)"
            rows.append((f"log p, IWAE K={name.removeprefix('iwae_')}", bound))
    rows += [
        ("log p(x|z)", f"{metrics['reconstruction']:.1f} nats"),
        ("KL(q||p)", f"{metrics['kl']:.1f} nats"),
        ("training", f"{metrics['steps']} steps, {metrics['seconds']:.0f} s"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
