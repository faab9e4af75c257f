# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Runs a guide, and its model on the guide's draws: once with all particles in a plate, or once for each particle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pyro
from pyro import poutine
from pyro.poutine.guide import GuideMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample

from pyro_sqair.infer.plates import PARTICLES

Pair = tuple[Trace, Trace]  # of the model, of the guide

ADVICE = (
    "Vectorised particles add a dimension on the left of every value: index from the right (z[..., 0], dim=-1), or "
    "pass vectorize_particles=False to the estimator (all but FIVO and SMC have it)."
)


def run_vectorised(
    model: Callable, guide: Callable, args: tuple, kwargs: dict[str, Any], num_particles: int, max_plate_nesting: int
) -> Pair:
    """One run with K particles, in a plate left of those of the programs."""
    particles = pyro.plate(PARTICLES, num_particles, dim=-1 - max_plate_nesting)
    with vectorised():
        # The plate is inside the replay, so it does not expand replayed values.
        return run(particles(model), particles(guide), args, kwargs)


def run_each(model: Callable, guide: Callable, args: tuple, kwargs: dict[str, Any], num_particles: int) -> list[Pair]:
    """K runs, on the same subsample of the data."""
    # Closing the iterator leaves the plate also after an error in the loop.
    each: Any = iter(pyro.plate(PARTICLES, num_particles))
    with SharedSubsamples(), closing(each) as particles:
        return [run(model, guide, args, kwargs) for _ in particles]


def run(model: Callable, guide: Callable, args: tuple, kwargs: dict[str, Any]) -> Pair:
    """Runs the guide, and the model replayed on its draws."""
    unwrapped = poutine.unwrap(guide)
    if isinstance(unwrapped, GuideMessenger):  # it runs together with the model, not before it
        guide(*args, **kwargs)
        return unwrapped.get_traces()
    guide_trace = poutine.trace(guide, graph_type="flat").get_trace(*args, **kwargs)
    replayed = poutine.replay(model, trace=guide_trace)
    return poutine.trace(replayed, graph_type="flat").get_trace(*args, **kwargs), guide_trace


@contextmanager
def vectorised() -> Iterator[None]:
    """Adds advice to the errors of programs that may be written for one particle at a time."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        error.add_note(f"This was a run with vectorised particles. {ADVICE}")
        raise


class SharedSubsamples(Messenger):
    """Gives all runs of programs inside it the same subsamples of the data, those that the first run draws."""

    def __init__(self) -> None:
        super().__init__()
        self._drawn: dict[str, Any] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if _draws_subsample(msg) and msg["name"] in self._drawn:
            msg["value"], msg["done"] = self._drawn[msg["name"]], True

    def _pyro_post_sample(self, msg: Any) -> None:
        if _draws_subsample(msg):
            self._drawn[msg["name"]] = msg["value"]


def _draws_subsample(msg: Any) -> bool:
    return site_is_subsample(msg) and (msg["fn"].subsample_size or msg["fn"].size) < msg["fn"].size
