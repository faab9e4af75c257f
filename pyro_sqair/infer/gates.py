# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Gates on the gradients of a guide's reparameterised draws, closed after the programs have run (for DReG)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from pyro.distributions import Delta, MaskedDistribution, TorchDistribution
from pyro.distributions.score_parts import ScoreParts
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.distributions.util import scale_and_mask, sum_rightmost
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Independent

from pyro_sqair.infer.plates import PARTICLES, Plate, vectorised_plates


class _Switch:
    """Whether gradients pass the gates."""

    def __init__(self) -> None:
        self.is_open = True


class _Gate(torch.autograd.Function):
    """The identity. Once the switch is off, gradients pass only for the elements marked in `keep`."""

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
    """Puts a gate after every reparameterised draw of a guide, and one after its log-probability.

    Open gates change nothing: the gradient with respect to a draw includes the paths through all later draws. With
    closed gates every draw is a constant, so the gradient of the guide consists of the scores, and of the
    log-probabilities of draws that are not converted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.switch = _Switch()
        self.draws: list[Draw] = []
        self._gated: set[int] = set()  # identities of the values in `draws`
        self._batch: set[Plate] | None = None

    def _pyro_post_sample(self, msg: Any) -> None:
        # This handler is outermost, so it runs before handlers that record the draw or pass it on.
        if site_is_subsample(msg) or (msg["infer"] or {}).get("_deterministic"):
            return
        plates = set(vectorised_plates(msg))
        self._batch = plates if self._batch is None else self._batch & plates
        if msg["is_observed"] or id(msg["value"]) in self._gated:  # the second visit is the model's, which is replayed
            return
        if not (getattr(msg["fn"], "has_rsample", False) and msg["value"].requires_grad):
            return
        drawn = msg["value"]
        gated = _Gate.apply(drawn, self.switch, None)
        fn = GatedDistribution(msg["fn"], self.switch, _is_convertible(msg))
        self.draws.append(Draw(drawn, gated, fn, msg["scale"], msg["mask"]))
        self._gated.add(id(gated))
        msg["value"], msg["fn"] = gated, fn

    def close(self, surrogate: Tensor, correction: Tensor, batch_scale: float) -> Tensor:
        """Closes the gates; returns zeros [*batch] with the gradient that reaches the guide through its draws."""
        gated = [draw.gated for draw in self.draws]
        plain, corrections = (
            torch.autograd.grad(target, gated, retain_graph=True, materialize_grads=True)
            for target in (surrogate.sum(), correction)
        )
        self.switch.is_open = False
        batch = sorted(plate.dim for plate in self._batch or ())
        total = torch.zeros_like(surrogate)
        for draw, gradient, replaced in zip(self.draws, plain, corrections, strict=True):
            gradient = gradient - draw.share(batch_scale) * replaced
            total = total + _per_datum(gradient * (draw.drawn - draw.drawn.detach()), draw.fn.event_dim, batch)
        return total


class Draw(NamedTuple):
    """A reparameterised draw."""

    drawn: Tensor  # the value before the gate
    gated: Tensor  # the value after the gate
    fn: GatedDistribution
    scale: Any  # of the site
    mask: Tensor | bool | None  # of the site

    def share(self, batch_scale: float) -> Tensor:
        """mu, broadcastable to the value: the multiple of the draw's log q in the weight."""
        fn = self.fn
        share = scale_and_mask(self.drawn.new_ones(fn.batch_shape), self.scale / batch_scale, self.mask)
        share = _unsqueezed(share, fn.reinterpreted) * fn.converted
        return _unsqueezed(share, fn.event_dim - fn.reinterpreted)


class GatedDistribution(TorchDistribution):
    """The distribution of a draw, with a gate after its log-probability if the draw is converted.

    Args:
        base: any distribution.
        switch: of the gate.
        convertible: False if no element of the draw is to be converted.

    Attributes:
        converted: 1 for elements that are converted and 0 for others; set when the log-probability is computed.
        reinterpreted: number of event dimensions that `converted` has.
    """

    arg_constraints: dict = {}
    has_rsample = True

    def __init__(self, base: Any, switch: _Switch, convertible: bool) -> None:
        self.base, self.switch, self.convertible = base, switch, convertible
        self.converted = torch.zeros(())
        self.reinterpreted = 0
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.base.support

    def log_prob(self, x: Any, *args: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        return self.score_parts(x, *args, **kwargs).log_prob

    def score_parts(self, x: Any, *args: Any, **kwargs: Any) -> ScoreParts:
        if not self.convertible:
            return self.base.score_parts(x, *args, **kwargs)
        parts, reinterpreted = _element_parts(self.base, x)
        if isinstance(parts.score_function, Tensor):  # partly reparameterised
            return self.base.score_parts(x)
        keep = parts.log_prob == 0  # masked, perhaps by the distribution itself
        self.converted, self.reinterpreted = (~keep).to(x.dtype), reinterpreted
        log_prob = sum_rightmost(_Gate.apply(parts.log_prob, self.switch, keep), reinterpreted)
        return ScoreParts(log_prob, 0, log_prob)


def _is_convertible(msg: Any) -> bool:
    fn = msg["fn"]
    while isinstance(fn, (Independent, MaskedDistribution)):
        fn = fn.base_dist
    shared = all(frame.name != PARTICLES for frame in msg["cond_indep_stack"])
    return not (shared or isinstance(fn, Delta) or msg["args"] or msg["kwargs"])


def _element_parts(fn: Any, value: Tensor) -> tuple[ScoreParts, int]:
    """The score parts before `to_event` sums them, and the number of dimensions that are not summed."""
    if isinstance(fn, Independent):
        parts, dims = _element_parts(fn.base_dist, value)
        return parts, dims + fn.reinterpreted_batch_ndims
    if isinstance(fn, MaskedDistribution):
        parts, dims = _element_parts(fn.base_dist, value)
        mask = fn._mask if isinstance(fn._mask, bool) else _unsqueezed(fn._mask, dims)
        return parts.scale_and_mask(mask=mask), dims  # type: ignore[arg-type]
    if isinstance(fn, TorchDistributionMixin):
        return fn.score_parts(value), 0
    log_prob = fn.log_prob(value)  # a distribution of PyTorch
    return ScoreParts(log_prob, 0, log_prob), 0  # type: ignore[arg-type]


def _unsqueezed(tensor: Tensor, dims: int) -> Tensor:
    return tensor.reshape(tensor.shape + (1,) * dims)


def _per_datum(term: Tensor, event_dim: int, batch: list[int]) -> Tensor:
    """Sums over the event, particles and plates without data: [K, ..., event] to [*batch]."""
    term = sum_rightmost(term, event_dim)
    summed = [dim for dim in range(-term.dim(), 0) if dim not in batch]
    return term.sum(summed) if summed else term
