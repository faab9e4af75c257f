# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The graph is what the papers say it is, and what changing one draw at a time shows."""

from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from PIL import Image
from pyro import poutine
from torch import Tensor, nn

from pyro_sqair.backbone import VRNNConfig
from pyro_sqair.models import SQAIR
from pyro_sqair.program import Program
from pyro_sqair.scene import Objects, SceneConfig
from pyro_sqair.slots import Slots
from pyro_sqair.systems import AIRSystem, SQAIRSystem, VRNNSystem
from pyro_sqair.viz import draw_dependencies
from pyro_sqair.viz.graph import Arrow, Dependencies, arrows, dependencies, expand, layout

Edges = set[tuple[str, str]]
LATENTS = ("pres", "where", "what")


def scene(num_slots: int = 1) -> SceneConfig:
    return SceneConfig(num_slots=num_slots, what_dim=2, image_size=(12, 12), glimpse_size=(6, 6))


def video(length: int = 2, batch: int = 64) -> Tensor:
    return torch.rand(length, batch, 1, 12, 12)


def sqair(num_slots: int = 1) -> tuple[Program, Program]:
    """A model and a guide in which no weight is zero by chance, and objects come and go."""
    model, guide = SQAIRSystem(hidden_size=8).programs(scene(num_slots))
    for parameter in (*model.parameters(), *guide.parameters()):
        nn.init.normal_(parameter, 0.0, 0.4)
    model.propagation_prior.presence_bias = 0.0
    return model, guide


def every(frame: str, slot: str) -> list[str]:
    return [f"frame_{frame}/{slot}/{name}" for name in LATENTS]


def all_pairs(upstream: list[str], downstream: list[str]) -> Edges:
    return {(a, b) for a in upstream for b in downstream}


def model_edges() -> Edges:
    """Eqs. 3 and 7-10 for T=2, N=1, object by object; a draw counts only where its object is present."""
    first, moved, new = every("0", "disc_0"), every("1", "prop_0"), every("1", "disc_0")
    edges = {(slot[0], rest) for slot in (first, moved, new) for rest in slot[1:]}
    edges |= all_pairs(first, ["frame_0/image"]) | all_pairs(moved + new, ["frame_1/image"])  # p(x_t | z_t)
    edges |= all_pairs(first, moved)  # Eq. 9: z_{t-1} and h_{t-1}
    edges |= {(moved[0], new[0])}  # Eq. 8: D_t given how many were propagated
    return edges | all_pairs(moved, [new[1]])  # the prior of `where` reads the summary of propagated objects


def guide_edges() -> Edges:
    """Algorithms 2 and 3 for T=2, N=1, with presence drawn last, from the glimpse."""
    x = ["frame_0/image", "frame_1/image"]
    first, moved, new = every("0", "disc_0"), every("1", "prop_0"), every("1", "disc_0")
    edges = all_pairs(x[:1], first) | all_pairs(x[1:], moved + new)
    for pres, where, what in (first, new):
        edges |= {(where, what), (what, pres)}
    edges |= all_pairs(first, moved)
    pres, where, what = moved
    edges |= {(where, what), (where, pres), (what, pres)}
    return edges | all_pairs(moved, [new[0], new[1]])  # Eq. 6, but `what` is read off the glimpse alone


@pytest.mark.parametrize(("half", "expected"), [(0, model_edges()), (1, guide_edges())])
def test_edges_are_those_of_the_paper(half: int, expected: Edges) -> None:
    graph = dependencies(sqair()[half], video())
    assert graph.edges == expected
    assert graph.observed == {"frame_0/image", "frame_1/image"}
    assert len(graph.sites) == len(set(graph.sites)) == 3 * 3 + 2


def log_probs(trace: poutine.Trace) -> dict[str, Tensor]:
    """Of every draw, with and without the rules of presence.

    With N=1 discovery opens only where the propagated object is gone: what that was like matters to the networks, but
    never to a weight.
    """
    laws = {name: site for name, site in trace.nodes.items() if site["type"] == "sample" and name.startswith("frame")}
    return {
        name: torch.stack(
            [law.log_prob(site["value"]) for law in (site["fn"], getattr(site["fn"], "base", site["fn"]))]
        )
        for name, site in laws.items()
    }


def swayed(program: Program, frames: Tensor) -> Edges:
    """Whose distribution changes when one draw is changed and all others are held."""
    trace = poutine.trace(program).get_trace(frames)
    before, edges = log_probs(trace), set()

    def compare(name: str, changed: poutine.Trace) -> None:
        after = log_probs(changed)
        order = list(before)
        later = order[order.index(name) + 1 :] if name in before else order
        edges.update((name, other) for other in later if not torch.equal(before[other], after[other]))

    for name in before:
        if trace.nodes[name]["is_observed"]:
            continue
        other = trace.copy()
        value = trace.nodes[name]["value"]
        # some are flipped, not all, so that every slot is still open somewhere
        flipped = torch.where(torch.rand_like(value) < 0.5, 1 - value, value)
        value = flipped if name.endswith("pres") else value + torch.randn_like(value)
        other.nodes[name] = {**trace.nodes[name], "value": value}
        compare(name, poutine.trace(poutine.replay(program, trace=other)).get_trace(frames))
    for t in range(len(frames)):
        name = f"frame_{t}/image"
        other_frames = frames.clone()
        other_frames[t] = torch.rand_like(frames[t])
        if name not in before:
            compare(name, poutine.trace(poutine.replay(program, trace=trace)).get_trace(other_frames))
    return edges


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("length", [2, 3])
def test_an_edge_is_where_changing_one_draw_changes_another(half: int, length: int) -> None:
    program, frames = sqair()[half], video(length)
    with torch.no_grad(), pyro.validation_enabled(False):
        assert swayed(program, frames) == dependencies(program, frames).edges


@pytest.mark.parametrize("half", [0, 1])
def test_with_two_slots_no_edge_is_missing(half: int) -> None:
    """Objects are gathered from all slots, so the slot an object moves to seems to depend on those it cannot be from:
    here, after one frame, the object of slot 1 is in slot 1."""
    program, frames = sqair(2)[half], video()
    with torch.no_grad(), pyro.validation_enabled(False):
        found, edges = swayed(program, frames), dependencies(program, frames).edges
    assert found < edges
    moved = {(a.rpartition("/")[0], b.rpartition("/")[0]) for a, b in edges - found}
    swaps = {("frame_0/disc_1", "frame_1/prop_0"), ("frame_0/disc_0", "frame_1/prop_1")}
    assert moved == (swaps if half == 0 else {("frame_0/disc_1", "frame_1/prop_0")})


def test_memory_reaches_over_frames() -> None:
    """An object discovered in frame 0 sways frame 2 directly, through recurrent states; in the model too."""
    for program in sqair():
        edges = dependencies(program, video(3)).edges
        assert ("frame_0/disc_0/what", "frame_2/prop_0/where") in edges


def test_air_forgets_between_frames() -> None:
    for program in AIRSystem(hidden_size=8).programs(scene()):
        edges = dependencies(program, video()).edges
        assert edges and all(a.split("/")[0] == b.split("/")[0] for a, b in edges)


def test_vrnn() -> None:
    """D.3: o_t = LSTM(x_{t-1}, z_{t-1}); then z_t from o_t; the guide sees x_t besides. Here over three frames."""
    networks = VRNNConfig(latent_dim=3, hidden_size=8)
    model, guide = (dependencies(program, video(3)) for program in VRNNSystem(networks).programs(scene()))
    z, x = ([f"frame_{t}/{name}" for t in range(3)] for name in ("z", "image"))
    past = {(site[s], z[t]) for site in (z, x) for t in range(3) for s in range(t)}
    assert guide.edges == past | set(zip(x, z, strict=True))
    assert model.edges == past | {(site[s], x[t]) for site in (z, x) for t in range(3) for s in range(t)} | set(
        zip(z, x, strict=True)
    )


def test_a_prior_of_ones_own_with_a_latent_of_its_own() -> None:
    def prior(previous: Objects, memory: Tensor | None, slots: Slots) -> None:
        wind = pyro.sample("wind", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        for i in slots:
            pyro.sample("pres", dist.Bernoulli(0.5))
            pyro.sample("where", dist.Normal(previous.where[..., i, :] + wind, 0.1).to_event(1))
            pyro.sample("what", dist.Normal(previous.what.new_zeros(2), 1.0).to_event(1))

    sqair_model, _ = sqair()
    model = SQAIR(sqair_model.discovery_prior, prior, sqair_model.renderer, scene())
    graph = dependencies(model, video())
    into_where = {a for a, b in graph.edges if b == "frame_1/prop_0/where"}
    assert {"frame_1/prop/wind", "frame_0/disc_0/where", "frame_0/disc_0/pres"} <= into_where
    assert "frame_0/disc_0/what" not in into_where
    # zeros of the shape of `what` say nothing of it
    assert {a for a, b in graph.edges if b == "frame_1/prop_0/what"} == {"frame_1/prop_0/pres"}
    places = layout(graph.sites)
    assert places["frame_1/disc_0/pres"][1] > places["frame_1/prop/wind"][1] > places["frame_1/image"][1]


def test_nothing_is_left_of_it() -> None:
    """The random state, the weights and the kind of what is drawn afterwards are as before."""
    model, guide = sqair()
    frames, before = video(), {name: p.clone() for name, p in guide.named_parameters()}
    state = torch.get_rng_state()
    dependencies(guide, frames)
    assert torch.equal(torch.get_rng_state(), state)
    trace = poutine.trace(model).get_trace(frames)
    assert all(type(site["value"]) is Tensor for name, site in trace.nodes.items() if name.startswith("frame"))
    assert type(frames) is Tensor
    assert all(torch.equal(before[name], p) and type(p) is nn.Parameter for name, p in guide.named_parameters())


def test_frames_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="12"):
        dependencies(sqair()[0], torch.rand(2, 3, 1, 10, 12))


class TestArrows:
    @pytest.mark.parametrize("half", [0, 1])
    def test_they_say_what_the_edges_say(self, half: int) -> None:
        graph = dependencies(sqair(2)[half], video(3))
        assert expand(arrows(graph), graph) == graph.edges
        assert len(arrows(graph)) < len(graph.edges) / 3

    def test_by_hand(self) -> None:
        a, b = [f"frame_0/disc_0/{n}" for n in "xy"], [f"frame_0/disc_1/{n}" for n in "xy"]
        full = all_pairs(a, b)
        sites = (*a, *b)
        assert arrows(Dependencies(sites, frozenset(), frozenset(full))) == [Arrow("frame_0/disc_0", "frame_0/disc_1")]
        less = full - {(a[0], b[0])}
        assert arrows(Dependencies(sites, frozenset(), frozenset(less))) == [
            Arrow(a[1], b[0]),
            Arrow("frame_0/disc_0", b[1]),
        ]


def test_layout() -> None:
    """Frames from left to right; in a frame propagation, discovery, image from top to bottom, slots in order."""
    graph = dependencies(sqair(2)[1], video(2))
    places = layout(graph.sites)
    assert len(set(places.values())) == len(places) == len(graph.sites)
    for t in range(2):
        assert len({places[f"frame_{t}/disc_{i}/what"][0] for i in range(2)}) == 1
    assert max(p[0] for s, p in places.items() if "frame_0" in s) < min(
        p[0] for s, p in places.items() if "frame_1" in s
    )
    rows = [places[f"frame_1/{s}"][1] for s in ("prop_0/what", "prop_1/what", "disc_0/what", "disc_1/what", "image")]
    assert rows == sorted(rows, reverse=True) and len(set(rows)) == 5
    order = [places[f"frame_1/prop_0/{name}"][0] for name in ("where", "what", "pres")]
    assert order == sorted(order)


def test_observed_draws_are_shaded(tmp_path: Path) -> None:
    model, _ = sqair()
    graph = draw_dependencies(model, video(), tmp_path / "graph.png")
    assert graph.edges == model_edges()
    with Image.open(tmp_path / "graph.png") as image:
        picture = np.asarray(image.convert("RGB"))
    shaded = (picture == 200).all(-1)  # #C8C8C8
    width = picture.shape[1]
    left, right = shaded[:, : width // 2].sum(), shaded[:, width // 2 :].sum()
    # one circle in each frame's half of the picture, of 0.34 units at 0.62 inches of 110 pixels, less its letter
    area = np.pi * (0.34 * 0.62 * 110) ** 2
    assert 0.85 * area < left < area and 0.85 * area < right < area
