# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The demo learns: what README promises of `make demo`, on held-out sequences."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pyro_sqair

ROOT = Path(__file__).resolve().parents[1]


def followed_online(run: Path) -> float:
    """The share of frames in which a filter with the demo's weights counts right, in videos twice as long."""
    experiment, model, guide = pyro_sqair.load(run)
    test = dataclasses.replace(experiment, test_frames=20).held_out(64, seed=5)
    follow = pyro_sqair.Filter(model, guide, num_particles=20)
    counts = torch.stack([follow.update(frame).present.sum(-1) for frame in test.frames])
    return (counts == test.count).float().mean().item()


@pytest.mark.slow
def test_demo_counts_and_keeps_identities(tmp_path: Path) -> None:
    """Counts are right in 98 % of the frames, and 99 % of the matches of an object keep its id."""
    command = [sys.executable, str(ROOT / "examples" / "moving_mnist.py"), "--out", str(tmp_path / "demo")]
    subprocess.run(command, check=True, cwd=ROOT)
    metrics = json.loads((tmp_path / "demo" / "metrics.json").read_text())
    assert metrics["count_accuracy"] >= 0.98
    assert metrics["ids_kept"] >= 0.99
    assert metrics["objects_matched"] >= 1000
    # Nothing is discovered twice: after the first frame next to nothing is new.
    assert sum(metrics["discoveries_per_frame"][1:]) <= 0.05
    assert followed_online(tmp_path / "demo") >= 0.98
    # More particles make a tighter bound, and both lie above the ELBO.
    assert metrics["elbo"] < metrics["iwae_5"] < metrics["iwae_100"]
