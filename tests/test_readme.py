# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The Python blocks of README and docs/programs.md run, one after the other, as a reader would type them."""

import contextlib
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pyro import poutine

from pyro_sqair.experiments import preset

ROOT = Path(__file__).resolve().parents[1]


def run_blocks(page: str, number: int) -> dict[str, Any]:
    """All names that the Python blocks of a page define."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == number
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    return names


def test_readme_tracks_and_imagines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    preset("embedded-digits").with_training(steps=1, batch_size=2).train("runs/demo", device="cpu", progress=False)
    typed = run_blocks("README.md", 1)
    assert typed["tracks"].image.shape == (10, 16, 1, 50, 50)
    assert typed["future"].objects.where.shape == (10, 16, 2, 4)
    assert typed["seen"].boxes.shape == (2, 4)
    assert typed["seen"].log_evidence.isfinite()
    assert typed["counts"].shape == (10, 16)
    assert sorted(os.listdir()) == ["runs", "tracks.png"]


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with contextlib.chdir(tmp_path_factory.mktemp("docs")):
        return run_blocks("docs/programs.md", 6)


def test_pair_shares_the_encoder_as_published(typed: dict[str, Any]) -> None:
    assert typed["tracks"].image.shape == (3, 32, 1, 50, 50)
    assert typed["future"].objects.where.shape == (10, 32, 2, 4)
    model, guide = typed["SQAIRSystem"](hidden_size=16).programs(typed["scene"])
    assert guide.discovery.encoder is model.discovery_prior.encoder


def test_thirty_lines_are_the_model(typed: dict[str, Any]) -> None:
    """The short program and the class give the same probability to the same draws."""
    model, guide = typed["SQAIRSystem"](hidden_size=16).programs(typed["scene"])
    parts = (model.discovery_prior, model.propagation_prior, model.renderer, typed["scene"])
    draws = poutine.trace(guide).get_trace(typed["frames"])
    long = poutine.trace(poutine.replay(model, trace=draws)).get_trace(typed["frames"])
    short = poutine.trace(poutine.replay(typed["sqair"], trace=draws)).get_trace(typed["frames"], *parts)
    sites = [name for name, site in long.nodes.items() if site["type"] == "sample"]
    assert sites == [name for name, site in short.nodes.items() if site["type"] == "sample"]
    assert any("prop_0" in name for name in sites)
    torch.testing.assert_close(long.log_prob_sum(), short.log_prob_sum(), rtol=1e-6, atol=0)


def test_own_prior_reaches_the_guide(typed: dict[str, Any]) -> None:
    """The prior without parameters still teaches the guide: its gradient is there and finite."""
    gradients = [p.grad for p in typed["objective"].guide.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
