# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Evaluation of a trained model and guide on held-out sequences: metrics and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pyro_sqair.data import Sequences
from pyro_sqair.data.atomic import write_json
from pyro_sqair.data.randomness import derive_seed, isolated
from pyro_sqair.evaluation import count_accuracy, discoveries_per_frame, evaluate_likelihood, tracking_score
from pyro_sqair.experiments.experiment import Run
from pyro_sqair.scene.objects import Objects
from pyro_sqair.scene.program import Program
from pyro_sqair.tracking import generate, infer_objects, predict, reconstruct
from pyro_sqair.training import read_log
from pyro_sqair.viz import animate_tracks, draw_curves, draw_prediction, draw_samples, draw_tracks

PICTURES = ("tracks.png", "tracks.gif", "prediction.png", "samples.png", "curves.png")
_SEQUENCES_AT_A_TIME = 128


def validate(model: Program, guide: Program, test: Sequences) -> dict[str, float]:
    """A quick evaluation during training: the bound of five particles in nats per frame, counting and identities.

    Without annotations, the mean number of inferred objects replaces counting and identities.

    Args:
        model: a generative program.
        guide: its inference program.
        test: held-out sequences, about a hundred.
    """
    found = evaluate(model, guide, test, num_particles=(5,))
    names = {"bound": "iwae_5_per_frame", "count_accuracy": "count_accuracy", "ids_kept": "ids_kept"}
    if "count_accuracy" not in found:
        names["objects"] = "objects_per_frame"
    return {name: found[key] for name, key in names.items() if found.get(key) is not None}


def evaluate(
    model: Program, guide: Program, test: Sequences, num_particles: tuple[int, ...] = (5, 100), progress: bool = False
) -> dict[str, Any]:
    """Counting, tracking and likelihood on held-out sequences, as plain numbers for JSON.

    The seed is fixed: the same programs and sequences give the same metrics. Without annotations there is no counting
    and no tracking.

    Args:
        model: a generative program.
        guide: its inference program.
        test: held-out sequences, on any device.
        num_particles: the numbers K of particles of the IWAE bounds.
        progress: whether to show a progress bar.
    """
    with isolated(_device(guide)):
        torch.manual_seed(derive_seed("evaluation"))
        objects = _inferred(guide, test)
        likelihood = evaluate_likelihood(
            model, guide, test.frames, num_particles, device=_device(guide), progress=progress
        )
    metrics: dict[str, Any] = {}
    if objects.pres.shape[-1]:  # the program has objects
        metrics["objects_per_frame"] = objects.pres.sum(-1).mean().item()
        metrics["discoveries_per_frame"] = discoveries_per_frame(objects)
        if (test.count >= 0).all():  # -1: not annotated
            metrics |= _compare_with_annotations(objects, test)
    return metrics | likelihood.summary()


def _device(program: Program) -> torch.device:
    return next(program.parameters()).device


def _inferred(guide: Program, test: Sequences) -> Objects:
    """One draw of the objects of all sequences, some sequences at a time on the guide's device, shape [T, B, N]."""
    parts = [infer_objects(guide, part.frames.to(_device(guide))) for part in test.split(_SEQUENCES_AT_A_TIME)]
    return Objects(*(torch.cat(fields, 1).cpu() for fields in zip(*parts, strict=True)))


def _compare_with_annotations(objects: Objects, test: Sequences) -> dict[str, Any]:
    counting = count_accuracy(objects.pres, test.count)
    height, width = test.frames.shape[-2:]
    tracking = tracking_score(objects, test.boxes, test.ids, (height, width))
    return {
        "count_accuracy": counting.overall,
        "count_accuracy_per_frame": counting.per_frame,
        "ids_kept": tracking.ids_kept,
        "id_switches": tracking.switches,
        "objects_missed": tracking.missed,
        "objects_spurious": tracking.spurious,
        "objects_matched": tracking.matched,
        "mean_iou": tracking.mean_iou,
    }


def write_pictures(
    model: Program, guide: Program, test: Sequences, out: Path, given_counts: bool = False, seen: int = 3
) -> list[Path]:
    """Draws tracks, an animation, predictions and samples into a folder.

    Args:
        model: a generative program.
        guide: its inference program.
        test: held-out sequences; at most twelve are shown, those with objects in the first frame first.
        out: the folder.
        given_counts: whether samples start with as many objects as were inferred, instead of drawing their number.
        seen: number of frames that the guide sees before the model predicts the others.

    Returns:
        The files; without a prediction if there is only one frame.
    """
    busy = torch.argsort((test.count[0] == 0).long(), stable=True)[:12]
    frames = test.frames[:, busy].to(_device(guide))
    still, moving, prediction, samples = (out / name for name in PICTURES[:4])
    tracks = reconstruct(model, guide, frames)
    draw_tracks(frames, tracks, still)
    animate_tracks(frames, tracks, moving)
    seen = min(seen, len(frames) - 1)
    if seen > 0:
        draw_prediction(frames, predict(model, guide, frames[:seen], len(frames)), seen, prediction)
    count = tracks.objects.pres[0].sum(-1) if given_counts else None
    draw_samples(generate(model, frames, len(frames), count), samples)
    return [still, moving, *[prediction] * (seen > 0), samples]


def write_report(
    run: Run, out: str | Path, sequences: int = 256, mnist: Path | None = None, progress: bool = True
) -> dict[str, Any]:
    """Evaluates a trained run and writes `metrics.json` and pictures into its folder.

    Args:
        run: the experiment, its model and its guide.
        out: the folder of the run.
        sequences: number of held-out sequences.
        mnist: see :meth:`~pyro_sqair.experiments.Experiment.source`.
        progress: whether to show a progress bar and print the metrics.

    Returns:
        The content of `metrics.json`.

    Raises:
        ValueError: if the folder has no log of a training.
    """
    (experiment, model, guide), out = run, Path(out)
    log = read_log(out / "log.jsonl") if (out / "log.jsonl").exists() else []
    if not any(record["kind"] == "train" for record in log):
        raise ValueError(f"expected the log of a training in {out / 'log.jsonl'}, found none")
    test = experiment.held_out(sequences, mnist=mnist)
    metrics = evaluate(model, guide, test, progress=progress)
    metrics |= {"steps": log[-1]["step"], "seconds": round(log[-1]["seconds"], 1)}
    write_json(out / "metrics.json", metrics)
    files = write_pictures(model, guide, test, out, experiment.has_fixed_count_prior)
    files.append(out / PICTURES[-1])
    draw_curves(log, files[-1])
    if progress:
        print(table(metrics))
        print(f"pictures: {', '.join(map(str, files))}")
    return metrics


def table(metrics: Mapping[str, Any]) -> str:
    """The metrics of :func:`write_report` as a small table for a terminal."""
    rows: list[tuple[str, str]] = []
    if "objects_per_frame" in metrics:
        rows = [("objects", f"{metrics['objects_per_frame']:.2f} found per frame (not annotated)")]
    if "count_accuracy" in metrics:
        counts = metrics["count_accuracy_per_frame"]
        rows = [
            ("count accuracy", f"{metrics['count_accuracy']:.4f}  (frame 1: {counts[0]:.3f}, last: {counts[-1]:.3f})"),
            ("ids kept", "-" if metrics["ids_kept"] is None else f"{metrics['ids_kept']:.4f}"),
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
