# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""README's programs run, one after the other, as a reader would type them."""

import re
from pathlib import Path
from typing import Any

import pyro.poutine as poutine
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def typed() -> dict[str, Any]:
    """All names that README's Python blocks define."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 6
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    return names


def test_blocks_run_and_track(typed: dict[str, Any]) -> None:
    assert typed["tracks"].image.shape == (3, 32, 1, 50, 50)
    assert typed["future"].objects.where.shape == (10, 32, 2, 4)


def test_filter_follows(typed: dict[str, Any]) -> None:
    assert typed["seen"].boxes.shape == (2, 4)
    assert typed["seen"].log_evidence.isfinite()


def test_thirty_lines_are_the_model(typed: dict[str, Any]) -> None:
    """The short program and the class give the same probability to the same draws."""
    model, guide = (typed[name].build(typed["scene"], hidden_size=16) for name in ("SQAIR", "SQAIRGuide"))
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
