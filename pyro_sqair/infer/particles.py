# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Checks that programs give vectorised particles the log-probabilities that each particle has alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyro_sqair.infer.log_weights import matched_sites, weighted_log_prob
from pyro_sqair.infer.plates import PARTICLES, PlatedSite, Site, guess_max_plate_nesting
from pyro_sqair.infer.runs import ADVICE, SharedSubsamples, run, run_vectorised, vectorised

_DATA = 32  # particles times data, at least
_IMPOSSIBLE = -15.0  # PyTorch replaces probabilities of 0 by eps, whose logarithm is -15.9 in single precision


def check_particles(model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> None:
    """Draws vectorised particles, replays each of them alone, and compares the log-probabilities of all sites.

    A program that indexes a draw from the left, such as `z[:, 0]`, may run with vectorised particles and compute
    another bound. A site that does not occur if a particle is alone must contribute zero to its weight.

    There are two particles, and more for less than 16 data. Discrete draws of the guide are uniform over the values in
    their support that are possible, so that particles differ. The check can miss a mistake that affects few values,
    such as a Python `if` on `all` or `any` of many draws. Dropout layers are switched off.

    Log-probabilities may differ by sqrt(eps) * (1 + |log p|), that is half of the digits: 0.0003 nats for each nat in
    single precision. The draws are the same, so only rounding differs.

    If Pyro's validation is on, an estimator calls it for each new pair of programs, and `evaluate_bounds` at each call.
    Random states are restored, and the handlers of the caller see nothing.

    Args:
        model: any Pyro program.
        guide: any Pyro program that takes the same arguments.
        *args: passed to both.
        **kwargs: passed to both.

    Raises:
        ValueError: if a log-probability differs; the message names the first such site, guide first.
    """
    compare_particles(model, guide, args, kwargs)


def compare_particles(
    model: Callable, guide: Callable, args: tuple, kwargs: dict[str, Any], max_plate_nesting: int | None = None
) -> None:
    """See `check_particles`; the number of dimensions of the plates is found by a trial run if not given."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with poutine.block(), torch.random.fork_rng(list(devices)), SharedSubsamples(), _no_dropout(model, guide):
        if max_plate_nesting is None:
            max_plate_nesting = guess_max_plate_nesting(model, guide, args, kwargs)
        number, wanted = 0, 2
        while number < wanted:  # a second time if there are few data
            number = wanted
            with _Varied():
                traces = run_vectorised(model, guide, args, kwargs, number, max_plate_nesting)
            guide_sites, model_sites = matched_sites(*traces)
            data = max((math.prod(plate.size for plate in plates) for _, plates in guide_sites), default=16)
            wanted = max(2, _DATA // max(1, data))
        with vectorised():
            together = _terms(guide_sites, model_sites)
        for k in range(number):
            with _Replayed(guide_sites, k):
                alone = _terms(*matched_sites(*run(model, guide, args, kwargs)))
            for key in together | alone:
                _compare(key, k, _particle(together.get(key), k, max_plate_nesting), alone.get(key))


@contextmanager
def _no_dropout(*programs: Callable) -> Iterator[None]:
    """Switches off the dropout layers of programs that are modules, or methods of modules."""
    owners = (getattr(program, "__self__", program) for program in programs)
    modules = {module for owner in owners if isinstance(owner, nn.Module) for module in owner.modules()}
    layers = [layer for layer in modules if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.training]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer in layers:
            layer.training = True


class _Varied(Messenger):
    """Draws discrete values of the guide uniformly from those that are possible, also where the guide is certain."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["done"] or msg["is_observed"] or site_is_subsample(msg):
            return
        fn = base = msg["fn"]
        while hasattr(base, "base_dist"):  # masked, expanded, or with event dimensions
            base = base.base_dist
        if not getattr(base, "has_enumerate_support", False) or base.event_shape:
            return
        drawn, support = fn(*msg["args"], **msg["kwargs"]), base.enumerate_support(expand=False).flatten()
        value = support[torch.randint(len(support), drawn.shape, device=support.device)].to(drawn.dtype)
        possible = fn.log_prob(value) > _IMPOSSIBLE
        possible = possible.reshape(possible.shape + (1,) * len(fn.event_shape))
        msg["value"], msg["done"] = torch.where(possible, value, drawn), True


class _Replayed(Messenger):
    """Sets the draws of a run without the particle plate to those of one particle."""

    def __init__(self, guide_sites: list[PlatedSite], k: int) -> None:
        super().__init__()
        self.values = {site["name"]: _drawn(site, k) for site, _ in guide_sites}

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if msg["done"] or msg["is_observed"] or name not in self.values:
            return
        value, shape = self.values[name], msg["fn"].shape()
        if value.numel() != shape.numel():
            raise ValueError(
                f"expected a draw of shape {list(shape)} for each particle at site {name!r} of the guide, got "
                f"{list(value.shape)} with vectorised particles. {ADVICE}"
            )
        msg["value"], msg["done"] = value.reshape(shape), True


def _drawn(site: Site, k: int) -> Tensor:
    if all(frame.name != PARTICLES for frame in site["cond_indep_stack"]):
        return site["value"]
    return site["value"].expand(site["fn"].shape())[k]


def _terms(guide_sites: list[PlatedSite], model_sites: list[PlatedSite]) -> dict[tuple[str, str], Tensor]:
    """The log-probability of each (program, site), masked and scaled."""
    return {
        (program, site["name"]): weighted_log_prob(site, 1.0)
        for program, sites in (("guide", guide_sites), ("model", model_sites))
        for site, _ in sites
        if site["mask"] is not False
    }


def _particle(log_prob: Tensor | None, k: int, max_plate_nesting: int) -> Tensor | None:
    """Drops the particle dimension, if there is one."""
    if log_prob is None or log_prob.dim() <= max_plate_nesting:
        return log_prob
    return log_prob[k if len(log_prob) > 1 else 0]


def _compare(key: tuple[str, str], k: int, together: Tensor | None, alone: Tensor | None) -> None:
    program, name = key
    if together is None:
        got = "no such site and one"
    elif alone is None:
        if not together.any():
            return
        got = f"{together[together != 0][0]:.6g} nats and no such site"
    else:
        tolerance = math.sqrt(torch.finfo(torch.result_type(together, 1.0)).eps)
        together, alone = torch.broadcast_tensors(together, alone)
        differs = ~torch.isclose(together, alone, rtol=tolerance, atol=tolerance, equal_nan=True)
        if not differs.any():
            return
        got = f"{together[differs][0]:.6g} and {alone[differs][0]:.6g} nats"
    raise ValueError(
        f"expected the same log-probability of particle {k} with vectorised particles and alone, got {got} at site "
        f"{name!r} of the {program}. {ADVICE} Random numbers drawn outside sample sites and statistics of the batch "
        "also differ."
    )
