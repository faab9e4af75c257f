# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The graph of a model or a guide: which draw depends on which, as found by running the program.

A slot is a box, a draw a circle, shaded if it is observed. Frames stand side by side; in a frame, propagation is above
discovery and the image below. An arrow that leaves a box stands for arrows from all of its draws, and one that ends at
a box for arrows to all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Patch
from matplotlib.path import Path as Curve
from PIL import Image
from pyro import poutine
from pyro.ops.provenance import ProvenanceTensor, detach_provenance, get_provenance
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.utils._pytree import tree_map

from pyro_sqair.frames import check_frames
from pyro_sqair.program import Program
from pyro_sqair.viz.files import save_image

_IMAGE = "image"
_NODE, _BOX, _GAP = 0.34, 1.05, 1.0  # radius of a circle, distance of circles in a box, space between boxes
_LINE, _MANY, _SHADE = "#555555", "#0072B2", "#C8C8C8"
_WORDS: dict[str, Any] = {"color": _LINE, "fontsize": 8, "ha": "center"}

# What these return has the shape or the type of a tensor and none of its numbers.
_NUMBERLESS = {
    torch.Tensor.new_zeros,
    torch.Tensor.new_ones,
    torch.Tensor.new_full,
    torch.Tensor.new_empty,
    torch.zeros_like,
    torch.ones_like,
    torch.full_like,
    torch.empty_like,
    torch.randn_like,
    torch.rand_like,
}


class Dependencies(NamedTuple):
    """Which draw depends directly on which.

    Attributes:
        sites: names of all draws, in the order in which they are drawn; images before what is inferred from them.
        observed: those of them whose value is given.
        edges: pairs (upstream, downstream): the distribution of the second is computed from the value of the first.
    """

    sites: tuple[str, ...]
    observed: frozenset[str]
    edges: frozenset[tuple[str, str]]


class Arrow(NamedTuple):
    """One arrow; a start or an end that is a slot, such as ``frame_1/prop_0``, stands for all draws in it."""

    start: str
    end: str


class _Tracked(ProvenanceTensor):
    """Pyro's tensor that knows which draws it is computed from, for programs that look at shapes.

    Pyro's own makes tuples of shapes, and has ``x.new_zeros(3)`` depend on x.
    """

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        origin: frozenset[str] = frozenset() if func in _NUMBERLESS else get_provenance([args, kwargs])
        result = func(*detach_provenance(args), **detach_provenance(kwargs))
        return result if isinstance(result, torch.Size) else tree_map(lambda part: _tracked(part, origin), result)


def _tracked(value: Any, origin: frozenset[str]) -> Any:
    """Marks a tensor with numbers in it as computed from the draws named in ``origin``."""
    if not isinstance(value, Tensor) or not value.numel():
        return value
    return _Tracked(detach_provenance(value), origin)


class _Track(Messenger):
    """Marks every draw with its own name."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg):
            msg["value"] = _tracked(msg["value"], frozenset({msg["name"]}))


def dependencies(program: Program, frames: Tensor) -> Dependencies:
    """Runs a model or a guide over video and notes which draws every distribution is computed from.

    No dependence is missed in the slots that are visited; those that no sequence opens are not, so give it a batch in
    which every slot is used somewhere. With several slots some edges mean no more than that objects are gathered from
    all slots when a frame is merged.

    Args:
        program: a model, or a guide; for this the frames are observed draws ``frame_0/image``, ``frame_1/image``, ...
        frames: video, shape ``[T, B, C, H, W]``, values in [0, 1].

    Raises:
        ValueError: for frames of another shape or dtype.
    """
    check_frames(frames, program.scene.channels, program.scene.image_size, next(program.parameters(), None))
    seen = [f"frame_{t}/{_IMAGE}" for t in range(len(frames))]

    with (
        torch.random.fork_rng(),
        torch.no_grad(),
        pyro.validation_enabled(False),
        poutine.trace() as tracer,
        _Track(),
        pyro.plate("sequences", frames.shape[1], dim=-1),
    ):
        state = program.init(frames.shape[1], frames)
        for t, (name, frame) in enumerate(zip(seen, frames, strict=True)):
            state = program.step(t, state, _tracked(frame, frozenset({name})))
    draws = {
        name: site
        for name, site in tracer.trace.nodes.items()
        if site["type"] == "sample" and not site_is_subsample(site)
    }
    given = [name for name in seen if name not in draws]  # a guide does not draw what it looks at
    edges, before = set(), set(given)
    for name, site in draws.items():
        fn: Any = site["fn"]
        # A mask may come from a later draw: in the guide `where` counts only if `pres`, drawn after it, is 1.
        law = get_provenance(fn.log_prob(site["value"]))
        edges |= {(upstream, name) for upstream in law & before}
        before.add(name)
    used = {upstream for upstream, _ in edges}
    given = [name for name in given if name in used]
    observed = {name for name, site in draws.items() if site["is_observed"]}
    return Dependencies((*given, *draws), frozenset({*given, *observed}), frozenset(edges))


def arrows(graph: Dependencies) -> list[Arrow]:
    """As few arrows as say the same: between slots where every draw of one sways every draw of the other."""
    slots = _slots(graph.sites)
    left, drawn = set(graph.edges), []

    def draw(starts: Iterable[str], ends: Iterable[str], arrow: Arrow) -> None:
        bundle = {(start, end) for start in starts for end in ends}
        if bundle <= left:
            left.difference_update(bundle)
            drawn.append(arrow)

    pairs = [(a, b) for b in slots for a in slots if a != b]
    for a, b in pairs:
        draw(slots[a], slots[b], Arrow(a, b))
    for a, b in pairs:
        for site in slots[b]:
            draw(slots[a], [site], Arrow(a, site))
        for site in slots[a]:
            draw([site], slots[b], Arrow(site, b))
    drawn += [Arrow(*edge) for edge in left]
    order = {name: i for i, name in enumerate([*graph.sites, *slots])}
    return sorted(set(drawn), key=lambda arrow: (order[arrow.start], order[arrow.end]))


def expand(drawn: Iterable[Arrow], graph: Dependencies) -> frozenset[tuple[str, str]]:
    """What arrows stand for, draw by draw."""
    slots = _slots(graph.sites)
    return frozenset((a, b) for s, e in drawn for a in slots.get(s, [s]) for b in slots.get(e, [e]))


def draw_dependencies(program: Program, frames: Tensor, path: str | Path) -> Dependencies:
    """Draws the graph of a model or a guide; see :func:`dependencies` and the module's docstring.

    Args:
        program: a model or a guide.
        frames: video, shape ``[T, B, C, H, W]``, values in [0, 1]; with a few frames and slots it stays readable.
        path: of the image; the format follows from the suffix.

    Returns:
        What was drawn.
    """
    graph = dependencies(program, frames)
    places = layout(graph.sites)
    slots = _slots(graph.sites)
    boxes = {name: _box([places[site] for site in sites]) for name, sites in slots.items()}
    corners = np.concatenate([*boxes.values()])
    low, high = corners.min(0) - 0.2, np.add(corners.max(0), (1.3, 1.0))

    figure = Figure(figsize=tuple((high - low) * 0.62), dpi=110)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    axes.set_axis_off()
    ends: dict[str, Patch] = {}
    headings: dict[str, float] = {}
    for name, sites in slots.items():
        (left, bottom), (right, top) = boxes[name]
        middle = (left + right) / 2
        if len(sites) > 1:
            shape = "round,pad=0,rounding_size=0.2"
            box = FancyBboxPatch((left, bottom), right - left, top - bottom, shape, fc="white", ec=_LINE)
            ends[name] = axes.add_patch(box)
            axes.text(middle - _BOX / 2, top + 0.06, name.rpartition("/")[2], **_WORDS, va="bottom")
        headings[name.split("/")[0]] = middle
        for site in sites:
            shade = _SHADE if site in graph.observed else "white"
            ends[site] = axes.add_patch(Circle(places[site], _NODE, fc=shade, ec="black", zorder=3))
            label = site.rpartition("/")[2]
            axes.text(*places[site], "x" if label == _IMAGE else label, fontsize=8, ha="center", va="center", zorder=4)
    for heading, middle in headings.items():
        axes.text(middle, high[1] - 0.2, heading, **_WORDS, va="top", weight="bold")
    for arrow in arrows(graph):
        _draw_arrow(axes, ends[arrow.start], ends[arrow.end])
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    save_image(picture, path)
    return graph


def layout(sites: Iterable[str]) -> dict[str, tuple[float, float]]:
    """Where the circles go: frames are columns, slots rows, and in a slot the draws stand in their order.

    Args:
        sites: names such as ``frame_1/prop_0/where``, in the order in which they are drawn.
    """
    slots = _slots(sites)
    columns = sorted({_frame(name) for name in slots})
    widest = max(len(inside) for inside in slots.values())
    rows = sorted({_row(name) for name in slots})
    places = {}
    for name, inside in slots.items():
        middle = columns.index(_frame(name)) * (widest * _BOX + 2 * _GAP)
        y = -rows.index(_row(name)) * (1 + _GAP)
        for i, site in enumerate(inside):
            places[site] = (middle + (i - (len(inside) - 1) / 2) * _BOX, y)
    return places


def _slots(sites: Iterable[str]) -> dict[str, list[str]]:
    """The draws of every slot; one outside slots, such as an image, is by itself under its own name."""

    def slot(site: str) -> str:
        return site.rpartition("/")[0] if re.search(r"(prop|disc)_\d+/", site) else site

    return {name: list(inside) for name, inside in groupby(sites, slot)}


def _frame(name: str) -> int:
    found = re.match(r"frame_(\d+)/", name)
    return int(found[1]) if found else -1


def _row(name: str) -> tuple[int, int, str]:
    """Propagation above discovery, other draws between them and the image."""
    found = re.search(r"(prop|disc)_(\d+)$", name)
    if found:
        return ("prop", "disc").index(found[1]), int(found[2]), ""
    last = name.rpartition("/")[2]
    return (3 if last == _IMAGE else 2), 0, last


def _box(places: list[tuple[float, float]]) -> np.ndarray:
    """The corners (left, bottom) and (right, top) of what surrounds some circles."""
    around = _NODE + (0.16 if len(places) > 1 else 0)
    return np.array([np.min(places, 0) - around, np.max(places, 0) + around])


def _draw_arrow(axes: Axes, first: Patch, second: Patch) -> None:
    """Draws an arrow between two circles or boxes, round what stands between them."""
    (a, b) = (patch.get_path().get_extents(patch.get_patch_transform()) for patch in (first, second))
    (x, y), (end_x, end_y) = ((float((e.x0 + e.x1) / 2), float((e.y0 + e.y1) / 2)) for e in (a, b))
    many = not (isinstance(first, Circle) and isinstance(second, Circle))
    style: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 11, "shrinkA": 0, "shrinkB": 0, "zorder": 2.5}
    style |= {"color": _MANY, "linewidth": 1.8} if many else {"color": _LINE, "linewidth": 1.0}
    same_frame = abs(end_x - x) < 2 * _BOX + _NODE
    if same_frame and abs(end_y - y) > 1.5 * (1 + _GAP):  # on the right, round the slots between
        out = max(a.x1, b.x1) + 1.0
        curve = Curve([(a.x1, y), (out, y), (out, end_y), (b.x1, end_y)], [Curve.MOVETO] + 3 * [Curve.CURVE4])
        axes.add_patch(FancyArrowPatch(path=curve, fill=False, **style))
        return
    if same_frame and y != end_y and many:  # upright, over the smaller of the two
        x = end_x = x if a.width < b.width else end_x
    bend = -0.35 if y == end_y and same_frame and abs(end_x - x) > 1.5 * _BOX else 0.0
    line = f"arc3,rad={bend}"
    axes.add_patch(FancyArrowPatch((x, y), (end_x, end_y), patchA=first, patchB=second, connectionstyle=line, **style))
