# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The graphs in docs/model.md are those of the programs, which the test finds by changing one draw at a time."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pyro
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_sqair.experiments.systems import SQAIRSystem
from pyro_sqair.scene.objects import SceneConfig
from pyro_sqair.scene.program import Program

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "model.md").read_text(encoding="utf-8")
Edges = set[tuple[str, str]]


def sites(node: str) -> list[str]:
    """The sites of a node: ``X1`` is an image, ``P1_where`` a draw, ``P1`` all three draws of a slot."""
    kind, frame, draw = re.fullmatch(r"([XPD])(\d)(?:_(\w+))?", node).groups()
    if kind == "X":
        return [f"frame_{frame}/image"]
    slot = {"P": "prop_0", "D": "disc_0"}[kind]
    return [f"frame_{frame}/{slot}/{name}" for name in ([draw] if draw else ("pres", "where", "what"))]


def edges_of_the_page(half: int) -> Edges:
    """The edges between draws in the page's graph of the model (0) or of the guide (1)."""
    graph = re.findall(r"^```mermaid\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)[half]
    edges = set()
    for line in graph.splitlines():
        ends = [re.findall(r"\b[XPD]\d(?:_\w+)?", end) for end in line.split("-->")]
        for starts, stops in pairwise(ends):
            edges |= {(a, b) for start in starts for stop in stops for a in sites(start) for b in sites(stop)}
    return edges


def programs() -> tuple[Program, Program]:
    """A model and a guide with random weights, none of them zero, so that objects appear and disappear."""
    scene = SceneConfig(num_slots=1, what_dim=2, image_size=(12, 12), glimpse_size=(6, 6))
    model, guide = SQAIRSystem(hidden_size=8).programs(scene)
    for parameter in (*model.parameters(), *guide.parameters()):
        nn.init.normal_(parameter, 0.0, 0.4)
    model.propagation_prior.presence_bias = 0.0
    return model, guide


def log_probs(trace: poutine.Trace) -> dict[str, Tensor]:
    """The log-probability of every draw, with and without the presence rules.

    With one slot, discovery is open only if nothing was propagated. Then the propagated latents are inputs of the
    networks, but log-probabilities with the presence rules do not depend on them.
    """
    nodes = {name: site for name, site in trace.nodes.items() if site["type"] == "sample" and name.startswith("frame")}
    return {
        name: torch.stack([fn.log_prob(site["value"]) for fn in (site["fn"], getattr(site["fn"], "base", site["fn"]))])
        for name, site in nodes.items()
    }


def dependencies(program: Program, frames: Tensor) -> Edges:
    """The pairs (a, b) for which the distribution of b changes with a, all other draws fixed."""
    trace = poutine.trace(program).get_trace(frames)
    before, edges = log_probs(trace), set()

    def compare(name: str, changed: poutine.Trace) -> None:
        after, order = log_probs(changed), list(before)
        later = order[order.index(name) + 1 :] if name in before else order
        edges.update((name, other) for other in later if not torch.equal(before[other], after[other]))

    for name in before:
        if trace.nodes[name]["is_observed"]:
            continue
        other, value = trace.copy(), trace.nodes[name]["value"]
        # Only some are flipped, so that every slot stays open somewhere.
        flipped = torch.where(torch.rand_like(value) < 0.5, 1 - value, value)
        value = flipped if name.endswith("pres") else value + torch.randn_like(value)
        other.nodes[name] = {**trace.nodes[name], "value": value}
        compare(name, poutine.trace(poutine.replay(program, trace=other)).get_trace(frames))
    for t in range(len(frames)):
        if (name := f"frame_{t}/image") not in before:  # a guide does not draw images
            changed = frames.clone()
            changed[t] = torch.rand_like(frames[t])
            compare(name, poutine.trace(poutine.replay(program, trace=trace)).get_trace(changed))
    return edges


@pytest.mark.parametrize("half", [0, 1], ids=["model", "guide"])
def test_graph_of_the_page(half: int) -> None:
    with torch.no_grad(), pyro.validation_enabled(False):
        assert dependencies(programs()[half], torch.rand(2, 64, 1, 12, 12)) == edges_of_the_page(half)
