# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Gates around a guide's reparameterised draws: open or closed to gradients, once the programs have run (for DReG)."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import (
    Delta,
    Laplace,
    LogNormal,
    LowRankMultivariateNormal,
    MaskedDistribution,
    MultivariateNormal,
    Normal,
    StudentT,
    TorchDistribution,
)
from pyro.distributions.score_parts import ScoreParts
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.distributions.util import scale_and_mask, sum_rightmost
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Independent

from pyro_sqair.infer.plates import PARTICLES, Plate, vectorised_plates

# Their log-probability is known to hold no mask. What a subclass or a wrapper holds is seen once it is taken.
_NEVER_MASKED = {Laplace, LogNormal, LowRankMultivariateNormal, MultivariateNormal, Normal, StudentT}


class _Switch:
    """Whether gradients pass the gates."""

    def __init__(self) -> None:
        self.is_open = True


class _Gate(torch.autograd.Function):
    """The identity, through which no gradient passes once the switch is off, but for the elements to keep."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, switch: _Switch, keep: Tensor | None) -> Tensor:
        ctx.switch = switch
        ctx.save_for_backward(keep)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        (grad,) = grads
        if ctx.switch.is_open:
            return grad, None, None
        (keep,) = ctx.saved_tensors
        return (None if keep is None else grad * keep), None, None


class Gates(Messenger):
    """Puts a gate behind every reparameterised draw of a guide, and one before its log-probability.

    While open they change nothing, and differentiating with respect to a draw goes through all later ones. Closed,
    every draw is a constant: of the guide there remain scores, and the log-probabilities of draws not converted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.switch = _Switch()
        self.draws: list[Draw] = []
        self._names: set[str] = set()
        self._batch: set[Plate] | None = None

    def _pyro_post_sample(self, msg: Any) -> None:
        # This handler is outermost, so it comes before any that records the draw or hands it on.
        if site_is_subsample(msg) or (msg["infer"] or {}).get("_deterministic"):
            return
        plates = set(vectorised_plates(msg))
        self._batch = plates if self._batch is None else self._batch & plates
        if msg["is_observed"] or msg["name"] in self._names:  # the second time, the model is replayed
            return
        self._names.add(msg["name"])
        if not (getattr(msg["fn"], "has_rsample", False) and msg["value"].requires_grad):
            return
        drawn = msg["value"]
        gated = _Gate.apply(drawn, self.switch, None)
        law = Law(msg["fn"], self.switch, _is_convertible(msg))
        self.draws.append(Draw(drawn, gated, law, msg["scale"], msg["mask"]))
        msg["value"], msg["fn"] = gated, law

    def close(self, surrogate: Tensor, correction: Tensor, batch_scale: float) -> Tensor:
        """Closes the gates for good; zero of shape [*batch], whose gradient is what reaches the guide by its draws."""
        shares = [draw.share(batch_scale) for draw in self.draws]
        gated = [draw.gated for draw in self.draws]
        total = surrogate.sum()

        def seen_from_draws(target: Tensor) -> tuple[Tensor | None, ...]:
            return torch.autograd.grad(target, gated, retain_graph=True, allow_unused=True)

        if all(share is None for share in shares):
            gradients = seen_from_draws(total - correction)
        else:
            plain, corrections = seen_from_draws(total), seen_from_draws(correction)
            gradients = tuple(
                p if c is None else -_times(share, c) if p is None else p - _times(share, c)
                for p, c, share in zip(plain, corrections, shares, strict=True)
            )
        self.switch.is_open = False
        batch = sorted(plate.dim for plate in self._batch or ())
        return sum(
            (
                _per_datum(gradient * (draw.drawn - draw.drawn.detach()), draw.law.event_dim, batch)
                for draw, gradient in zip(self.draws, gradients, strict=True)
                if gradient is not None
            ),
            torch.zeros_like(surrogate),
        )


class Draw:
    """A reparameterised draw: its value before and behind the gate, its law, and how its log q enters the weight."""

    def __init__(self, drawn: Tensor, gated: Tensor, law: Law, scale: Any, mask: Tensor | bool | None) -> None:
        self.drawn, self.gated, self.law, self.scale, self.mask = drawn, gated, law, scale, mask

    def share(self, batch_scale: float) -> Tensor | None:
        """mu, broadcastable to the value: how often the draw's log q counts in the weight; None for once."""
        law, scale, mask = self.law, self.scale, self.mask
        if batch_scale != 1.0:
            scale = scale / batch_scale
        if law.converted is None and mask is None and not isinstance(scale, Tensor) and scale == 1.0:
            return None
        share = self.drawn.new_ones(law.batch_shape) if law.batch_shape else self.drawn.new_ones(())
        share = scale_and_mask(share, scale, mask)
        if law.converted is not None:
            share = _unsqueezed(share, law.reinterpreted) * law.converted
        return _unsqueezed(share, law.event_dim - law.reinterpreted)


class Law(TorchDistribution):
    """The distribution of a draw, whose log-probability has a gate before it where the draw is converted.

    Args:
        base: any distribution.
        switch: of the gate.
        convertible: False if no element of the draw is to be converted.

    Attributes:
        converted: which elements are, by their log-probability, once that has been taken; None for all.
        reinterpreted: event dimensions that `converted` has.
    """

    arg_constraints: dict = {}
    has_rsample = True

    def __init__(self, base: Any, switch: _Switch, convertible: bool) -> None:
        self.base, self.switch, self.convertible = base, switch, convertible
        self.converted: Tensor | None = None
        self.reinterpreted = 0
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.base.support

    def log_prob(self, x: Any, *args: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        return self.score_parts(x, *args, **kwargs).log_prob

    def score_parts(self, x: Any, *args: Any, **kwargs: Any) -> ScoreParts:
        if not self.convertible:
            self.converted = x.new_zeros(())
            return self.base.score_parts(x, *args, **kwargs)
        never_masked, parts, self.reinterpreted = _element_parts(self.base, x)
        if isinstance(parts.score_function, Tensor):  # partly reparameterised
            self.converted, self.reinterpreted = x.new_zeros(()), 0
            return self.base.score_parts(x)
        log_prob = parts.log_prob
        keep = None
        if not never_masked:
            keep = log_prob == 0
            self.converted = (~keep).to(x.dtype)
        log_prob = _Gate.apply(log_prob, self.switch, keep)
        log_prob = sum_rightmost(log_prob, self.reinterpreted)
        return ScoreParts(log_prob, 0, log_prob)


def _is_convertible(msg: Any) -> bool:
    fn = msg["fn"]
    while isinstance(fn, (Independent, MaskedDistribution)):
        fn = fn.base_dist
    shared = all(frame.name != PARTICLES for frame in msg["cond_indep_stack"])
    return not (shared or isinstance(fn, Delta) or msg["args"] or msg["kwargs"])


def _element_parts(fn: Any, value: Tensor) -> tuple[bool, ScoreParts, int]:
    """Score parts before `to_event` has summed them: (is there surely no mask, the parts, dimensions not summed)."""
    if isinstance(fn, Independent):
        never_masked, parts, dims = _element_parts(fn.base_dist, value)
        return never_masked, parts, dims + fn.reinterpreted_batch_ndims
    if isinstance(fn, MaskedDistribution):
        _, parts, dims = _element_parts(fn.base_dist, value)
        mask = fn._mask if isinstance(fn._mask, bool) else _unsqueezed(fn._mask, dims)
        return False, parts.scale_and_mask(mask=mask), dims  # type: ignore[arg-type]
    if isinstance(fn, TorchDistributionMixin):
        return type(fn) in _NEVER_MASKED, fn.score_parts(value), 0
    log_prob = fn.log_prob(value)  # one of PyTorch's own
    return False, ScoreParts(log_prob, 0, log_prob), 0  # type: ignore[arg-type]


def _unsqueezed(tensor: Tensor, dims: int) -> Tensor:
    return tensor.reshape(tensor.shape + (1,) * dims)


def _times(share: Tensor | None, gradient: Tensor) -> Tensor:
    return gradient if share is None else share * gradient


def _per_datum(term: Tensor, event_dim: int, batch: list[int]) -> Tensor:
    """Sums out the event, particles and plates without data: [K, ..., event] to [*batch]."""
    term = term.sum(tuple(range(-event_dim, 0))) if event_dim else term
    summed = [dim for dim in range(-term.dim(), 0) if dim not in batch]
    return term.sum(summed) if summed else term
