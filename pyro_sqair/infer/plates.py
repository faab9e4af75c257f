# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Finds the plates that hold the data, and reduces log-probabilities to one number per particle and datum."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from pyro import poutine
from pyro.infer.util import is_validation_enabled
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_site_shape
from torch import Tensor

from pyro_sqair.infer.sites import Site, quoted

PARTICLES = "particles"


class Plate(NamedTuple):
    """A vectorised plate around a site. Pyro's own frames are slow to hash."""

    name: str
    dim: int  # negative
    size: int  # of the subsample if the plate subsamples
    full_size: int | None


PlatedSite = tuple[Site, tuple[Plate, ...]]  # a site and its plates


def vectorised_plates(site: Site) -> tuple[Plate, ...]:
    """The vectorised plates of a site, without the particle plate."""
    return tuple(
        Plate(frame.name, frame.dim, frame.size, frame.full_size)
        for frame in site["cond_indep_stack"]
        if frame.dim is not None and frame.name != PARTICLES
    )


def guess_max_plate_nesting(model: Callable, guide: Callable, args: tuple, kwargs: dict[str, Any]) -> int:
    """The number of dimensions of the plates of model and guide, found by running both once.

    Raises:
        ValueError: if a plate has the name of the particle plate, or validation is on and a site has a batch
            dimension without a plate.
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
                            f"{site['name']!r}. The estimators use that name: rename the plate."
                        )
                    if frame.dim is not None:
                        dims.append(-frame.dim)
    return max(dims)


class DatumShape:
    """The shape [K, *batch] of per-datum weights, and the reduction of sites to this shape.

    The batch plates are the plates common to all sites; other plates of a site are summed over.

    Args:
        sites: every sample site of guide and model, with its plates.
        num_particles: K.
        max_plate_nesting: number of dimensions right of the particle dimension.

    Raises:
        ValueError: if a plate holds data and some site is outside it.
    """

    def __init__(self, sites: list[PlatedSite], num_particles: int, max_plate_nesting: int) -> None:
        kinds = {plates: None for _, plates in sites}
        common = set(next(iter(kinds))).intersection(*kinds)
        if not common:
            _check_no_data_in_plates(sites)
        self.batch = tuple(sorted(common, key=lambda plate: plate.dim))
        self.shape = (num_particles, *(plate.size for plate in self.batch))
        # With n of N data drawn, the bound of each is multiplied by N / n (outside its logarithm).
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
        """Broadcasts a site's log-probability over its plates and particles, and sums over plates without data.

        Returns:
            Shape [K, ...], aligned to the right, with size 1 in dimensions without a batch plate.

        Raises:
            ValueError: if it has a dimension that belongs neither to the particles nor to a plate.
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
        """Drops the dimensions without a batch plate: [K, ..., 1, ...] to [K, *batch]."""
        return total.reshape(self.shape)


def _check_no_data_in_plates(sites: list[PlatedSite]) -> None:
    for site, plates in sites:
        if site["is_observed"] and plates:
            name = plates[0].name
            outside = {other["name"]: None for other, around in sites if all(p.name != name for p in around)}
            got = f"{quoted(outside)} outside it" if outside else "plates of that name with different sizes or dims"
            raise ValueError(
                f"expected every sample site to lie inside plate {name!r}, which holds data "
                f"({site['name']!r}), got {got}. Weights are per datum: move such sites into the plate "
                "in model and guide, or make them parameters; if it does not index data, use .to_event(...)."
            )
