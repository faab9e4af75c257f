# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The code blocks of docs/estimators.md run in order, and its formulas agree with the code."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import pyro_sqair.infer
from pyro_sqair.infer import OVIS, VIMCO, Bounds, ReleasedSQAIRSignal

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "estimators.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def typed() -> dict[str, Any]:
    """All names defined by the Python blocks of the page."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 8
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "estimators.md", "exec"), names)
    return names


def test_blocks_run_and_train(typed: dict[str, Any]) -> None:
    assert math.isfinite(typed["loss"])
    for parameter in (*typed["model"].parameters(), *typed["guide"].parameters()):
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all()
    assert isinstance(typed["bounds"], Bounds)
    assert typed["elbo"].step == 3


def test_formulas_are_those_of_the_code() -> None:
    """The column s_k of the table, computed independently; that of IWAE follows from its enumerated gradient."""
    log_w = torch.randn(5, 7, dtype=torch.float64)
    w = log_w.exp()
    v, bound = w / w.sum(0), w.mean(0).log()
    others = [[l for l in range(5) if l != k] for k in range(5)]
    geometric = torch.stack([((w[o].sum(0) + log_w[o].mean(0).exp()) / 5).log() for o in others])
    arithmetic = torch.stack([w[o].mean(0).log() for o in others])
    for estimator, signal in (
        (VIMCO(5), bound - geometric),
        (VIMCO(5, control_variate="arithmetic"), bound - arithmetic),
        (OVIS(5), -(1 - v).log()),
        (OVIS(5, gamma=1), ((1 - 1 / 5) / (1 - v)).log() + v),
        (OVIS(5, gamma=0.3), 0.3 * math.log(1 - 1 / 5) - (1 - v).log() - 0.7 * v + v),
        (ReleasedSQAIRSignal(5), (log_w - geometric) / 5),
    ):
        torch.testing.assert_close(estimator.signal(log_w), signal, rtol=1e-10, atol=1e-10)


def test_names_exist() -> None:
    """Every estimator and function that the page calls is in the package."""
    pyros = {"RenyiELBO", "TraceGraph_ELBO", "TraceEnum_ELBO", "ReweightedWakeSleep", "SVI", "DistributedDataParallel"}
    called = set(re.findall(r"`([A-Za-z_]+)\(", PAGE)) - pyros
    assert {"VIMCO", "OVIS", "RWS", "DReG", "FIVO", "RenyiWarmup"} <= called
    elsewhere = {"init", "step", "pyro", "surrogate"}  # methods
    assert {name for name in called - elsewhere if not hasattr(pyro_sqair.infer, name)} == set()
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", PAGE):
        assert (ROOT / "docs" / picture).is_file()
