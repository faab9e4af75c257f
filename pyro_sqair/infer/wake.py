# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Reweighted wake-sleep: the guide is fitted to the posterior, or to the model's dreams, instead of by the bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from pyro.infer.util import is_validation_enabled
from pyro.poutine.guide import GuideMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_sqair.infer.log_weights import probable_sites, weighted_log_prob
from pyro_sqair.infer.multi_sample import MultiSampleELBO
from pyro_sqair.infer.plates import DatumShape
from pyro_sqair.infer.sites import quoted

Dream = Callable[..., tuple[Any, ...]]


class RWS(MultiSampleELBO):
    """Reweighted wake-sleep (Bornschein & Bengio 2015; Le et al. 2019), with weights per datum.

    The model climbs the bound L with the draws held fixed ("wake-theta": unbiased for the model's parameters), and
    the guide climbs a mixture, with the share `insomnia` in [0, 1], of

        wake-phi:  sum_k v_k log q(z_k | x)   v_k = softmax_k(log w), z_k from the guide
        sleep-phi: log q(z | x)               z, x from the model, "dreamt"

    Wake-phi lowers KL(p(z | x) || q), by self-normalised weights: biased, but the less the larger K. Sleep-phi
    lowers the same KL in expectation over the model's x instead of the data's, without bias. No draw is
    differentiated through, reparameterised or not, so that models with branches of any kind will do. What is masked
    or scaled in log q counts so here. A parameter of both programs gets the sum of what each path gives. Log q is taken
    of the value alone, so normalising flows need an inverse (Pyro's planar and radial flows have none).

    `loss` and the value of `differentiable_loss` are minus the bound L, whatever the guide climbs. The order alpha
    is that of L; wake-phi, which is no bound's gradient, has the plain weights.

    Args:
        num_particles: K, at least 2 (1 if insomnia is 0: then the model climbs the ELBO).
        max_plate_nesting: see `MultiSampleELBO`.
        insomnia: the share of wake-phi; 1 is wake-wake, 0 is wake-sleep. Pyro's argument of the same name.
        dream: makes the guide's data of the model's; needed if insomnia < 1. It is called as
            `dream(trace, *args, **kwargs)` with a trace of the model that has drawn its observed sites as well,
            one draw a datum, and the programs' arguments, and returns the positional arguments to run the guide
            with; the keyword arguments stay. For a program of frames [T, B, C, H, W] between 0 and 1:

                def dream(trace, frames):
                    pixels = [trace.nodes[f"frame_{t}/image"]["value"] for t in range(len(frames))]
                    return (torch.stack(pixels).reshape(frames.shape).clamp(0, 1),)
        alpha: see `MultiSampleELBO`.

    Raises:
        ValueError: if K is too small, insomnia or alpha is out of range, or there is no `dream` where one is needed.
    """

    def __init__(
        self,
        num_particles: int = 5,
        max_plate_nesting: float = math.inf,
        insomnia: float = 1.0,
        dream: Dream | None = None,
        *,
        alpha: float = 0.0,
    ) -> None:
        if not 0 <= insomnia <= 1:
            raise ValueError(f"expected 0 <= insomnia <= 1, got {insomnia}")
        if insomnia < 1 and dream is None:
            raise ValueError(
                f"expected `dream` with insomnia={insomnia} < 1, got none. It turns the model's draws into the "
                "guide's arguments; or leave insomnia at 1."
            )
        self.min_particles = 2 if insomnia > 0 else 1  # of one particle's weight, 1, the guide learns nothing
        super().__init__(num_particles, max_plate_nesting, alpha=alpha)
        self.insomnia, self.dream = insomnia, dream

    def score_signal(self, log_weight: Tensor) -> Tensor:
        """There is none: the guide does not climb the bound."""
        raise NotImplementedError("RWS has no score signal: it treats draws of all kinds alike, by weights of its own")

    def _estimate(self, model: Callable, guide: Callable, args: tuple, kwargs: dict[str, Any]) -> tuple[Tensor, float]:
        with DetachedDraws():
            particles = self._log_weights(model, guide, args, kwargs, with_score=False)
        log_q = particles.log_q - particles.log_q.detach()  # zero, with the gradient of log q
        surrogate = self.bound(particles.log_weight + log_q)  # the gradient of log p alone
        if self.insomnia > 0:
            share = particles.log_weight.detach().softmax(0)
            surrogate = surrogate + self.insomnia * (share * log_q).sum(0)
        if self.insomnia < 1:
            dreamt = self._log_q_of_dreams(model, guide, args, kwargs)
            surrogate = surrogate + (1 - self.insomnia) * (dreamt - dreamt.detach())
        return surrogate, particles.scale

    def _log_q_of_dreams(self, model: Callable, guide: Callable, args: tuple, kwargs: dict[str, Any]) -> Tensor:
        """log q(z | x) of one dream a datum, [*batch]."""
        assert self.dream is not None
        if isinstance(poutine.unwrap(guide), GuideMessenger):
            raise ValueError(
                "expected a guide that runs by itself, got a GuideMessenger, which runs the model. It cannot be "
                "shown dreams: set insomnia=1."
            )
        with torch.no_grad():
            dreamt = poutine.trace(poutine.uncondition(model), graph_type="flat").get_trace(*args, **kwargs)
            guide_args = self.dream(dreamt, *args, **kwargs)
        if not isinstance(guide_args, tuple):
            raise ValueError(f"expected dream to return a tuple of arguments, got {type(guide_args).__name__}")
        dreamer = poutine.trace(poutine.replay(guide, trace=dreamt), graph_type="flat")
        return _log_q(dreamer.get_trace(*guide_args, **kwargs), dreamt, int(self.max_plate_nesting))


class DetachedDraws(Messenger):
    """A context in which nothing can be differentiated through a draw.

    The draws are detached as they are made, before the program goes on with them, so that later draws' parameters
    do not carry gradients of earlier draws either (Pyro's RWS detaches them in the finished trace).
    """

    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and isinstance(msg["value"], Tensor):
            # A new tensor: one detached in place would still be looked up in the caches of torch's transforms.
            msg["value"] = msg["value"].detach()


def _log_q(guide_trace: Trace, model_trace: Trace, max_plate_nesting: int) -> Tensor:
    sites = probable_sites(guide_trace)
    if strangers := [site["name"] for site, _ in sites if site["name"] not in model_trace.nodes]:
        raise ValueError(
            f"expected the model to dream every site of the guide, got {quoted(strangers)} in the guide alone, "
            "of which dreams say nothing. Drop auxiliary draws, or set insomnia=1."
        )
    datum = DatumShape(sites + probable_sites(model_trace), 1, max_plate_nesting)
    total = torch.zeros(datum.shape)
    log_q = [
        datum.reduce(weighted_log_prob(site, datum.scale), site["name"], plates)
        for site, plates in sites
        if site["mask"] is not False
    ]
    if log_q:
        total = datum.squeeze(torch.stack(log_q).sum(0))
    if is_validation_enabled() and not total.isfinite().all():
        odd = [site["name"] for site, _ in sites if not weighted_log_prob(site, 1.0).isfinite().all()]
        raise ValueError(
            f"expected the guide to give the model's dreams finite log-probabilities, got others at {quoted(odd)}. "
            "The guide's support has to hold all that the model can draw."
        )
    return total[0]
