# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Log importance weights of K particles per datum, from which all estimators and bounds are computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from pyro.distributions import MaskedDistribution
from pyro.distributions.score_parts import ScoreParts
from pyro.distributions.util import scale_and_mask
from pyro.infer.util import is_validation_enabled
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_sqair.infer.plates import PARTICLES, DatumShape, Plate, PlatedSite, Site, vectorised_plates
from pyro_sqair.infer.runs import run_each, run_vectorised, vectorised
from pyro_sqair.infer.sites import compare_sites, quoted, sample_sites


class LogWeights(NamedTuple):
    """Log importance weights of particles, and their parts."""

    log_weight: Tensor  # [K, *batch]  log p(x, z_k) - log q(z_k | x)
    log_likelihood: Tensor  # [K, *batch]  log p(x | z_k): the observed sites alone
    score: Tensor | None  # [K, *batch]  h_k: log q of the non-reparameterised draws; None if there are none
    scale: float  # factor on each datum's bound: N / n if n of N data were drawn, else 1
    log_q: Tensor  # [K, *batch]  log q(z_k | x) as part of the weight: masked and scaled
    scored_log_q: Tensor | None  # [K, *batch]  the part of log_q from the draws in `score`; None if none
    log_prior: Tensor  # [K, *batch]  log p(z_k): the model's other sites


def log_weights(
    model: Callable,
    guide: Callable,
    args: tuple = (),
    kwargs: dict[str, Any] | None = None,
    *,
    num_particles: int,
    max_plate_nesting: int,
    with_score: bool = True,
    check_possible: bool = False,
    vectorize_particles: bool = True,
) -> LogWeights:
    """Runs the guide with K particles, replays the model on them, and computes log weights per datum.

    The plates common to all sites are the batch; programs without plates have one datum. Masks and `poutine.scale` are
    part of the weight. The subsampling of a batch plate is not: it is returned as `scale`. The score terms are neither
    masked nor scaled, because a masked draw still affects later draws (Pyro's convention).

    Args:
        model: any Pyro program.
        guide: any Pyro program that takes the same arguments.
        args: passed to both.
        kwargs: passed to both.
        num_particles: K, at least 1.
        max_plate_nesting: number of dimensions of the plates of model and guide.
        with_score: whether to collect the score terms.
        check_possible: whether it is an error if all weights of a datum are zero.
        vectorize_particles: whether to run the programs once, in a plate of K particles left of all others, or K
            times, with the same subsample of the data.

    Raises:
        ValueError: if sites differ between model and guide, are enumerated, lie outside the batch plates or
            have undeclared dimensions; if Pyro's validation is on, also if a log weight is NaN or +inf or, with
            `check_possible`, all log weights of a datum are -inf.
    """
    kwargs = kwargs or {}
    if vectorize_particles:
        pairs = [run_vectorised(model, guide, args, kwargs, num_particles, max_plate_nesting)]
    else:
        pairs = run_each(model, guide, args, kwargs, num_particles)
    runs = []
    for pair in pairs:
        guide_sites, model_sites = matched_sites(*pair)
        if not guide_sites and not model_sites:
            raise ValueError("expected model and guide to have sample sites, got none")
        datum = DatumShape(guide_sites + model_sites, num_particles // len(pairs), max_plate_nesting)
        runs.append(_Run(guide_sites, model_sites, datum))
    with vectorised() if vectorize_particles else nullcontext():
        weights = [_weigh(run, with_score) for run in runs]
    joined = _joined(weights)
    if is_validation_enabled():
        for run, weighed in zip(runs, weights, strict=True):
            _check_weights(weighed.log_weight, run)
        if check_possible:
            _check_possible(joined.log_weight, runs)
    return joined


class _Run(NamedTuple):
    """One run of guide and model, with all particles or with one."""

    guide_sites: list[PlatedSite]
    model_sites: list[PlatedSite]
    datum: DatumShape

    def sites(self) -> Iterator[tuple[str, Site, tuple[Plate, ...]]]:
        """The program, the site and its plates."""
        for program, sites in (("guide", self.guide_sites), ("model", self.model_sites)):
            for site, plates in sites:
                yield program, site, plates


def _weigh(run: _Run, with_score: bool) -> LogWeights:
    datum = run.datum
    log_q: list[Tensor] = []
    score: list[Tensor] = []
    scored_log_q: list[Tensor] = []
    for site, plates in run.guide_sites:
        fn, name = site["fn"], site["name"]
        scored = False
        if with_score:
            parts = fn.score_parts(site["value"], *site["args"], **site["kwargs"])
            log_prob = parts.log_prob
            term = unmasked_score(site, parts)
            if isinstance(term, Tensor):  # it is the number 0 for reparameterised draws
                _check_drawn_per_particle(site)
                score.append(datum.reduce(term, name, plates))
                scored = not isinstance(parts.entropy_term, Tensor)  # false if partly reparameterised
        else:
            log_prob = fn.log_prob(site["value"], *site["args"], **site["kwargs"])
        if site["mask"] is not False:
            log_q.append(datum.reduce(_weighted(site, log_prob, datum.scale), name, plates))
            if scored:
                scored_log_q.append(log_q[-1])

    log_prior: list[Tensor] = []
    log_likelihood: list[Tensor] = []
    for site, plates in run.model_sites:
        if site["mask"] is not False:
            log_prob = datum.reduce(weighted_log_prob(site, datum.scale), site["name"], plates)
            (log_likelihood if site["is_observed"] else log_prior).append(log_prob)

    terms = log_likelihood + log_prior + log_q
    zero = terms[0].new_zeros(terms[0].shape) if terms else torch.zeros(datum.shape)
    likelihood = _total(log_likelihood, zero)
    proposal = _total(log_q, zero)
    prior = _total(log_prior, zero)
    return LogWeights(
        datum.squeeze(likelihood + prior - proposal),
        datum.squeeze(likelihood),
        datum.squeeze(_total(score, zero)) if score else None,
        datum.scale,
        datum.squeeze(proposal),
        datum.squeeze(_total(scored_log_q, zero)) if scored_log_q else None,
        datum.squeeze(prior),
    )


def _joined(weights: list[LogWeights]) -> LogWeights:
    """The particles of all runs."""
    if len(weights) == 1:
        return weights[0]
    zero = torch.zeros_like(weights[0].log_weight)

    def rows(name: str) -> Tensor | None:
        terms = [getattr(run, name) for run in weights]
        if all(term is None for term in terms):
            return None
        return torch.cat([zero if term is None else term for term in terms])

    tensors = {name: rows(name) for name in LogWeights._fields if name != "scale"}
    return LogWeights(scale=weights[0].scale, **tensors)  # type: ignore[arg-type]


def with_plates(sites: dict[str, Site]) -> list[PlatedSite]:
    """The sites, each with its plates."""
    return [(site, vectorised_plates(site)) for site in sites.values()]


def weighted_log_prob(site: Site, batch_scale: float) -> Tensor:
    """A site's log-probability, masked and scaled as in the weight.

    Args:
        site: of a trace.
        batch_scale: the factor of the batch plates' subsampling in the site's scale, which is divided out.
    """
    return _weighted(site, site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"]), batch_scale)


def matched_sites(model_trace: Trace, guide_trace: Trace) -> tuple[list[PlatedSite], list[PlatedSite]]:
    """The sample sites (guide's, model's), each with its plates.

    Raises:
        ValueError: if one is enumerated, or the sites of model and guide differ.
    """
    guide, model = sample_sites(guide_trace), sample_sites(model_trace)
    for program, sites in (("guide", guide), ("model", model)):
        for name, site in sites.items():
            if site["infer"].get("enumerate") or site["infer"].get("_enumerate_dim") is not None:
                raise ValueError(
                    f"expected every site to be sampled, got site {name!r} of the {program} marked for enumeration. "
                    "Drop its infer={'enumerate': ...}, or use TraceEnum_ELBO."
                )
    compare_sites(model, guide)
    return with_plates(guide), with_plates(model)


def _weighted(site: Site, log_prob: Tensor, batch_scale: float) -> Tensor:
    """Applies the mask and the scale, without the factor of the batch plates' subsampling."""
    scale, mask = site["scale"], site["mask"]
    if batch_scale != 1.0:
        scale = scale / batch_scale
    if mask is None and not isinstance(scale, Tensor) and scale == 1.0:
        return log_prob
    return scale_and_mask(log_prob, scale, mask)


def _total(terms: list[Tensor], zero: Tensor) -> Tensor:
    return torch.stack(terms).sum(0) if terms else zero


def unmasked_score(site: Site, parts: ScoreParts) -> Tensor | int:
    """The score term of a site; 0 if its draw is reparameterised."""
    fn = site["fn"]
    # `fn.mask(False)` sets all score parts to zero, although other draws may depend on this one.
    if isinstance(fn, MaskedDistribution) and fn._mask is False and not fn.has_rsample:
        return fn.base_dist.score_parts(site["value"]).score_function
    return parts.score_function


def _check_drawn_per_particle(site: Site) -> None:
    if all(frame.name != PARTICLES for frame in site["cond_indep_stack"]):
        raise ValueError(
            f"expected guide site {site['name']!r} to be drawn once per particle, got a draw outside the "
            "particle plate, shared by the particles. Do not block that plate around it."
        )


def _check_weights(weight: Tensor, run: _Run) -> None:
    """Names the site that makes a weight NaN or +inf. Synchronises with the device, so only validation runs it."""
    if not (weight.isnan() | weight.isposinf()).any():
        return
    infinite = []
    for program, site, _ in run.sites():
        log_prob = weighted_log_prob(site, 1.0)
        if log_prob.isnan().any():
            raise ValueError(
                f"expected finite log-probabilities, got NaN at site {site['name']!r} of the {program}. "
                "Its value or its distribution's parameters are NaN, or the value is outside the support."
            )
        if log_prob.isinf().any():
            infinite.append(f"{site['name']} ({program})")
    got = "NaN from infinities that cancel" if weight.isnan().any() else "+inf from infinite log-probabilities"
    raise ValueError(f"expected finite log weights, got {got} at {quoted(infinite)}")


def _check_possible(weight: Tensor, runs: list[_Run]) -> None:
    """Names the sites that make all weights of a datum zero. Synchronises with the device, as above."""
    impossible = weight.isneginf().all(0)
    if not impossible.any():
        return
    excluded: dict[str, Tensor] = {}  # the particles that have weight zero because of a site
    rows = torch.arange(len(weight)).chunk(len(runs))
    for run, particles in zip(runs, rows, strict=True):
        for program, site, plates in run.sites():
            if site["mask"] is False:
                continue
            log_prob = run.datum.reduce(weighted_log_prob(site, run.datum.scale), site["name"], plates)
            observed = program == "model" and site["is_observed"]
            name = f"{site['name']} ({'observed in the model' if observed else program})"
            infinite = log_prob.isposinf() if program == "guide" else log_prob.isneginf()
            excluded.setdefault(name, torch.zeros_like(weight, dtype=torch.bool))[particles] = run.datum.squeeze(
                infinite
            )
    in_all = [name for name, particles in excluded.items() if (particles.all(0) & impossible).any()]
    in_some = [name for name, particles in excluded.items() if (particles & impossible).any()]
    where = f"for all particles at {quoted(in_all)}" if in_all else f"for some particles at each of {quoted(in_some)}"
    raise ValueError(
        "expected a particle with a log weight above -inf for every datum, got none of "
        f"{len(weight)} for {int(impossible.sum())} of {impossible.numel()} data, because of infinite terms {where}. "
        "Check that the observed values lie in the support, and keep probabilities away from 0 and 1 (bound the "
        "logits) and scales away from 0."
    )
