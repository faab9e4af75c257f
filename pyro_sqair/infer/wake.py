# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Reweighted wake-sleep: trains the guide on weighted particles or on samples of the model, not by the bound."""

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

from pyro_sqair.infer.log_weights import weighted_log_prob, with_plates
from pyro_sqair.infer.multi_sample import MultiSampleELBO
from pyro_sqair.infer.plates import DatumShape
from pyro_sqair.infer.sites import quoted, sample_sites

Dream = Callable[..., tuple[Any, ...]]


class RWS(MultiSampleELBO):
    """Reweighted wake-sleep (Bornschein & Bengio 2015; Le et al. 2019), with weights per datum.

    The model maximises the bound L at fixed draws ("wake-theta": unbiased for the model's parameters). The guide
    maximises a mixture, with the fraction `insomnia` in [0, 1] of wake-phi, of

        wake-phi:  sum_k v_k log q(z_k | x)   v_k = softmax_k(log w), z_k from the guide
        sleep-phi: log q(z | x)               z, x from the model, "dreamt"

    Wake-phi minimises KL(p(z | x) || q) with self-normalised weights; its bias decreases with K. Sleep-phi minimises
    the same KL without bias, but in expectation over the model's x instead of the data. No gradient passes through
    draws, reparameterised or not, so the model may branch on any of them. Masks and scales apply to log q. Parameters
    shared by both programs get the sum of both gradients. Log q is a function of the value alone, so normalising
    flows need an inverse (Pyro's planar and radial flows have none).

    `loss` and the value of `differentiable_loss` are minus the bound L. The order alpha is that of L; wake-phi always
    uses the weights of order 0.

    Args:
        num_particles: K, at least 2 (1 if insomnia is 0: then L is the ELBO).
        max_plate_nesting: see `MultiSampleELBO`.
        insomnia: the fraction of wake-phi; 1 is wake-wake, 0 is wake-sleep (the name is Pyro's).
        dream: makes arguments for the guide from a sample of the model; required if insomnia < 1. It is called as
            `dream(trace, *args, **kwargs)` with a trace of the model whose observed sites are sampled, one sample
            per datum, and the programs' arguments. It returns the positional arguments of the guide; the keyword
            arguments are unchanged. For programs of frames [T, B, C, H, W] with values in [0, 1]:

                def dream(trace, frames):
                    pixels = [trace.nodes[f"frame_{t}/image"]["value"] for t in range(len(frames))]
                    return (torch.stack(pixels).reshape(frames.shape).clamp(0, 1),)
        alpha: see `MultiSampleELBO`.
        vectorize_particles: see `MultiSampleELBO`; a dream is one particle in any case.

    Raises:
        ValueError: if K is too small, insomnia or alpha is out of range, or a required `dream` is missing.
    """

    def __init__(
        self,
        num_particles: int = 5,
        max_plate_nesting: float = math.inf,
        insomnia: float = 1.0,
        dream: Dream | None = None,
        *,
        alpha: float = 0.0,
        vectorize_particles: bool = True,
    ) -> None:
        if not 0 <= insomnia <= 1:
            raise ValueError(f"expected 0 <= insomnia <= 1, got {insomnia}")
        if insomnia < 1 and dream is None:
            raise ValueError(
                f"expected `dream` with insomnia={insomnia} < 1, got none. It turns the model's draws into the "
                "guide's arguments; or leave insomnia at 1."
            )
        self.min_particles = 2 if insomnia > 0 else 1  # with one particle, v_k = 1 carries no information
        super().__init__(num_particles, max_plate_nesting, alpha=alpha, vectorize_particles=vectorize_particles)
        self.insomnia, self.dream = insomnia, dream

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
        """log q(z | x) of one dream per datum, [*batch]."""
        assert self.dream is not None
        if isinstance(poutine.unwrap(guide), GuideMessenger):
            raise ValueError(
                "expected a guide that runs without the model, got a GuideMessenger, for which the sleep phase is not "
                "defined: set insomnia=1."
            )
        with torch.no_grad():
            dreamt = poutine.trace(poutine.uncondition(model), graph_type="flat").get_trace(*args, **kwargs)
            guide_args = self.dream(dreamt, *args, **kwargs)
        if not isinstance(guide_args, tuple):
            raise ValueError(f"expected dream to return a tuple of arguments, got {type(guide_args).__name__}")
        dreamer = poutine.trace(poutine.replay(guide, trace=dreamt), graph_type="flat")
        return _log_q(dreamer.get_trace(*guide_args, **kwargs), dreamt, int(self.max_plate_nesting))


class DetachedDraws(Messenger):
    """Detaches every draw, so that no gradient passes through it.

    Draws are detached before the program uses them, so the parameters of later draws carry no gradient of earlier
    draws either. (Pyro's RWS detaches them in the finished trace.)
    """

    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and isinstance(msg["value"], Tensor):
            # Not detach_(): PyTorch's transforms cache the tensor, so it must remain as it is.
            msg["value"] = msg["value"].detach()


def _log_q(guide_trace: Trace, model_trace: Trace, max_plate_nesting: int) -> Tensor:
    sites = with_plates(sample_sites(guide_trace))
    if auxiliary := [site["name"] for site, _ in sites if site["name"] not in model_trace.nodes]:
        raise ValueError(
            f"expected every site of the guide in the model's dreams, got {quoted(auxiliary)} in the guide alone. "
            "Drop auxiliary draws, or set insomnia=1."
        )
    datum = DatumShape(sites + with_plates(sample_sites(model_trace)), 1, max_plate_nesting)
    log_q = [
        datum.reduce(weighted_log_prob(site, datum.scale), site["name"], plates)
        for site, plates in sites
        if site["mask"] is not False
    ]
    total = datum.squeeze(torch.stack(log_q).sum(0)) if log_q else torch.zeros(datum.shape)
    if is_validation_enabled() and not total.isfinite().all():
        odd = [site["name"] for site, _ in sites if not weighted_log_prob(site, 1.0).isfinite().all()]
        raise ValueError(
            f"expected finite log-probabilities of the model's dreams under the guide, got others at {quoted(odd)}. "
            "The guide's support must contain everything that the model can draw."
        )
    return total[0]
