# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Which plates hold the data, and how a site's log-probability reduces to a number per particle and datum."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pyro
from pyro import poutine
from pyro.infer.util import is_validation_enabled
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_site_shape
from torch import Tensor

from pyro_sqair.infer.sites import quoted

PARTICLES = "particles"


class Plate(NamedTuple):
    """A vectorised plate around a site."""

    name: str
    dim: int  # negative
    size: int  # of the subsample, if there is one
    full_size: int | None


Site = Any  # a pyro.poutine.runtime.Message, whose fields Pyro types too loosely to be of use
PlatedSite = tuple[Site, tuple[Plate, ...]]  # a site and the plates around it


def particle_plate(num_particles: int, max_plate_nesting: int) -> pyro.plate:
    """The plate of K particles, to the left of every plate of the program."""
    return pyro.plate(PARTICLES, num_particles, dim=-1 - max_plate_nesting)


def vectorised_plates(site: Site) -> tuple[Plate, ...]:
    """The plates around a site except the particles' and the sequential ones."""
    return tuple(
        Plate(frame.name, frame.dim, frame.size, frame.full_size)
        for frame in site["cond_indep_stack"]
        if frame.dim is not None and frame.name != PARTICLES
    )


def guess_max_plate_nesting(model: Callable, guide: Callable, args: tuple, kwargs: dict[str, Any]) -> int:
    """How many dimensions the plates of a model and guide take, found by running the pair once.

    Raises:
        ValueError: if a plate has the name of the particles', or validation is on and a site has a batch dimension
            that no plate declares.
    """
    with poutine.block():
        guide_trace = poutine.trace(guide, graph_type="flat").get_trace(*args, **kwargs)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
    dims = [0]
    for trace in map(prune_subsample_sites, (guide_trace, model_trace)):
        if is_validation_enabled():
            trace.compute_log_prob()
        for site in trace.nodes.values():
            if site["type"] == "sample":
                if is_validation_enabled():
                    check_site_shape(site, max_plate_nesting=math.inf)  # type: ignore[arg-type]
                for frame in site["cond_indep_stack"]:
                    if frame.name == PARTICLES:
                        raise ValueError(
                            f"expected no plate called {PARTICLES!r} in model and guide, got one around site "
                            f"{site['name']!r}. The particles' own plate has that name: rename yours."
                        )
                    if frame.dim is not None:
                        dims.append(-frame.dim)
    return max(dims)


class DatumShape:
    """The shape [K, *batch] of per-datum weights, and the reduction of each site to it.

    The batch plates are the plates common to all sites; other plates of a site are summed over.

    Args:
        sites: (site, its plates) of every sample site of guide and model.
        num_particles: K.
        max_plate_nesting: dimensions to the right of the particles'.

    Raises:
        ValueError: if data lie in a plate that some site is outside of.
    """

    def __init__(self, sites: list[PlatedSite], num_particles: int, max_plate_nesting: int) -> None:
        kinds = {plates: None for _, plates in sites}
        common = set(next(iter(kinds))).intersection(*kinds)
        if not common:
            _check_no_data_in_plates(sites)
        self.batch = tuple(sorted(common, key=lambda plate: plate.dim))
        self.shape = (num_particles, *(plate.size for plate in self.batch))
        # From N data drawn n at a time: the bound of each counts N / n times (not inside its logarithm).
        self.scale = math.prod((p.full_size or p.size) / p.size for p in self.batch)

        def aligned(plates: Iterable[Plate]) -> tuple[int, ...]:
            shape = [num_particles] + [1] * max_plate_nesting
            for plate in plates:
                shape[plate.dim] = plate.size
            return tuple(shape)

        self._target = aligned(self.batch)
        self._full = {plates: aligned(plates) for plates in kinds}
        self._summed = {plates: [p.dim for p in plates if p not in common] for plates in kinds}

    def reduce(self, log_prob: Tensor, name: str, plates: tuple[Plate, ...]) -> Tensor:
        """Broadcast a site's log-probability over its plates and particles; sum over plates without data.

        Returns:
            Shape [K, ...], aligned to the right, with size 1 where there is no batch plate.

        Raises:
            ValueError: if it has a dimension that is neither the particles' nor a plate's.
        """
        summed = self._summed[plates]
        if log_prob.shape == self._target and not summed:
            return log_prob
        full = self._full[plates]
        shape = log_prob.shape
        if len(shape) > len(full) or any(
            size not in (1, wanted) for size, wanted in zip(reversed(shape), reversed(full), strict=False)
        ):
            raise ValueError(
                f"expected the log-probability of site {name!r} to broadcast to {list(full)} "
                f"(particles, then plates: {quoted(p.name for p in plates) or 'none'}), got {list(shape)}. "
                "Declare its batch dimensions by pyro.plate, or make them event dimensions by .to_event(...)."
            )
        log_prob = log_prob.expand(full)
        return log_prob.sum(summed, keepdim=True) if summed else log_prob

    def squeeze(self, total: Tensor) -> Tensor:
        """Drop the dimensions without a batch plate: [K, ..., 1, ...] to [K, *batch]."""
        return total.reshape(self.shape)


def _check_no_data_in_plates(sites: list[PlatedSite]) -> None:
    for site, plates in sites:
        if site["is_observed"] and plates:
            name = plates[0].name
            outside = {other["name"]: None for other, around in sites if all(p.name != name for p in around)}
            where = f"{quoted(outside)} outside it" if outside else "it with another size or dim elsewhere"
            raise ValueError(
                f"expected every sample site to lie inside plate {name!r}, which holds data "
                f"({site['name']!r}), got {where}. Weights are per datum: move such sites into the plate "
                "in model and guide, or make them parameters; if it does not index data, use .to_event(...)."
            )
