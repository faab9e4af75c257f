# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Compares the sample sites of a model and its guide, with a readable error where they differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pyro import poutine
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample

Site = Any  # a pyro.poutine.runtime.Message, whose fields Pyro types too loosely

_MOST_NAMES = 8


def check_sites(model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> None:
    """Runs the guide once, replays the model on it, and compares their sample sites.

    Args:
        model: any Pyro program.
        guide: any Pyro program that takes the same arguments.
        *args: passed to both.
        **kwargs: passed to both.

    Raises:
        ValueError: if a site is missing in either program or its event shapes differ; the message names every
            such site and a remedy.
    """
    # The block hides this trial run from enclosing handlers, as Pyro's ELBOs do.
    with poutine.block():
        guide_trace = poutine.trace(guide, graph_type="flat").get_trace(*args, **kwargs)
        handler = poutine.trace(poutine.replay(model, trace=guide_trace), graph_type="flat")
        try:
            handler(*args, **kwargs)
        except Exception:
            # A draw of the wrong shape often makes the model fail first. The sites reached so far explain the error
            # better than the model's own message, which is raised if they match.
            compare_sites(sample_sites(handler.trace), sample_sites(guide_trace), complete=False)
            raise
    compare_sites(sample_sites(handler.trace), sample_sites(guide_trace))


def compare_sites(model: dict[str, Site], guide: dict[str, Site], *, complete: bool = True) -> None:
    """Compares the sample sites of a guide and of the model replayed on it.

    Args:
        model: the model's sites by name.
        guide: the guide's sites by name.
        complete: False if the model stopped early, so that missing sites are no error.

    Raises:
        ValueError: as in `check_sites`.
    """
    auxiliary = {name for name, site in guide.items() if site["infer"].get("is_auxiliary")}
    observed = {name for name, site in model.items() if site["is_observed"]}
    problems: list[str] = []

    def report(names: Iterable[str], problem: str) -> None:
        if found := list(names):
            problems.append(problem.format(quoted(found)))

    if complete:
        report(
            (name for name in model if name not in guide and name not in observed),
            "sampled in the model but not in the guide: {}. Sample them in the guide under the same name, or "
            "observe them in the model.",
        )
        report(
            (name for name in guide if name not in model and name not in auxiliary),
            "sampled in the guide but not in the model: {}. Sample them in the model under the same name, or "
            'mark them infer={{"is_auxiliary": True}} in the guide.',
        )
    report(
        (name for name in observed - auxiliary if name in guide and not guide[name]["is_observed"]),
        "sampled in the guide but observed in the model: {}. Drop them from the guide, or unobserve them.",
    )
    report(
        (name for name, site in guide.items() if site["is_observed"] and name not in auxiliary),
        "observed in the guide: {}. Remove obs=...; use pyro.factor for a term of the guide's density.",
    )
    report(
        (name for name in auxiliary if name in model and not model[name]["is_observed"]),
        "marked auxiliary in the guide but sampled in the model: {}. Unmark or rename them.",
    )
    for name, site in guide.items():
        other = model.get(name)
        if other is None or not (hasattr(site["fn"], "event_shape") and hasattr(other["fn"], "event_shape")):
            continue
        if other["fn"].event_shape != site["fn"].event_shape:
            problems.append(
                f"event shapes of {name!r} differ: {list(other['fn'].event_shape)} in the model, "
                f"{list(site['fn'].event_shape)} in the guide. Check its size and its .to_event(...)."
            )
    if problems:
        listed = "\n  - ".join(problems)
        raise ValueError(f"expected model and guide to draw the same sites, got\n  - {listed}")


def quoted(names: Iterable[str]) -> str:
    """The first eight names in quotes, and the number of the others."""
    names = list(names)
    rest = len(names) - _MOST_NAMES
    return ", ".join(map(repr, names[:_MOST_NAMES])) + (f" and {rest} more" if rest > 0 else "")


def sample_sites(trace: Trace) -> dict[str, Site]:
    """The sample sites of a trace by name, without the subsamples of plates and without `pyro.deterministic`."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site_is_subsample(site) and not (site["infer"] or {}).get("_deterministic")
    }
