# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""NVIL: the score function with learned baselines, by Pyro's `TraceGraph_ELBO`, and baselines for any guide."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import pyro
from pyro.distributions import MaskedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.infer import TraceGraph_ELBO
from pyro.infer.util import is_validation_enabled
from pyro.ops.provenance import track_provenance
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Size, Tensor, nn

from pyro_sqair.infer.log_weights import matched_sites
from pyro_sqair.infer.plates import PlatedSite


@track_provenance.register
def _(x: Size, provenance: frozenset) -> Size:
    """While Pyro tracks dependencies, `tensor.shape` is a mere tuple to it, so that `tensor.shape.numel()` fails."""
    return x


class NVIL(TraceGraph_ELBO):
    """Neural variational inference and learning (Mnih & Gregor 2014): the ELBO, with a baseline for each discrete draw.

    Each draw that is not reparameterised is told the cost downstream of it alone, which Pyro tracks, less a baseline
    that the guide attaches to the site by `infer={"baseline": ...}`; see `with_baselines`. A baseline may depend on
    whatever was known before the draw, changes nothing in expectation, and learns by its own squared error, which is
    part of the gradient, not of the value of the loss. That error is large beside the ELBO: let an optimiser that
    clips gradients clip the baselines' apart.

    This is Pyro's estimator with three things mended: draws whose distribution is masked by `.mask(False)`, or late,
    after the draw, have the right score; baselines need not have the batch's shape exactly; there is a
    `differentiable_loss`, so that `NVIL()(model, guide)` is a module for a torch optimiser.

    Args:
        num_particles: how many samples the ELBO is averaged over, side by side. Unlike in `MultiSampleELBO` this
            makes it more exact, not tighter: the bound is that of one particle.
        max_plate_nesting: dimensions that plates of model and guide take; if not given, found by running both once.

    Raises:
        ValueError: if there is no particle; when it runs, if sites differ between model and guide or are enumerated
            or (if Pyro's validation is on) have log-probabilities that are not finite.
    """

    def __init__(self, num_particles: int = 1, max_plate_nesting: float = math.inf) -> None:
        if num_particles < 1:
            raise ValueError(f"expected num_particles >= 1 for NVIL, got {num_particles}")
        super().__init__(
            num_particles=num_particles, max_plate_nesting=max_plate_nesting, vectorize_particles=num_particles > 1
        )

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the ELBO; its gradient is the estimate's, and for the baselines that of their squared error."""
        loss, surrogate = self._loss_and_surrogate_loss(model, guide, args, kwargs)
        return surrogate - surrogate.detach() - loss.detach()  # what Pyro calls the loss here is the ELBO

    def _get_trace(self, model: Callable, guide: Callable, args: tuple, kwargs: dict[str, Any]) -> tuple[Trace, Trace]:
        model_trace, guide_trace = super()._get_trace(model, guide, args, kwargs)
        guide_sites, model_sites = matched_sites(model_trace, guide_trace)
        if is_validation_enabled():
            _check_finite(guide_sites, "guide")
            _check_finite(model_sites, "model")
        for site in guide_trace.nodes.values():
            if site["type"] == "sample" and not getattr(site["fn"], "has_rsample", False):
                _mend_score(site)
                if "baseline" in site["infer"]:
                    site["infer"] = {**site["infer"], "baseline": _fitted(site)}
        return model_trace, guide_trace


def _check_finite(sites: list[PlatedSite], program: str) -> None:
    """One infinite term makes the ELBO infinite. It reads from the device: only under validation."""
    for site, _ in sites:
        log_prob = site["log_prob"]
        if not log_prob.isfinite().all():
            got = "NaN" if log_prob.isnan().any() else "infinite ones"
            raise ValueError(
                f"expected finite log-probabilities, got {got} at site {site['name']!r} of the {program}. Check that "
                "its value is a number in the support, and keep probabilities off 0 and 1 and scales off 0."
            )


def _mend_score(site: Any) -> None:
    fn, parts = site["fn"], site["score_parts"]
    if isinstance(fn, MaskedDistribution):
        if fn._mask is False:  # then Pyro drops the score, though other draws may depend on this one
            score = fn.base_dist.score_parts(site["value"]).score_function
            site["score_parts"] = parts._replace(score_function=score)
    elif site["unscaled_log_prob"] is not parts.score_function:
        # Masked by the distribution itself, perhaps by a later draw m that depends on this one. Pyro takes it that
        # E[grad(log q)] = 0 removes the gradient of m log q through its parameters, but E[m grad(log q)] is not 0.
        # E[(m - 1) grad(log q)] is the same, and nothing where nothing is masked.
        late = site["unscaled_log_prob"] - parts.score_function
        site["score_parts"] = parts._replace(entropy_term=scale_and_mask(late, site["scale"], site["mask"]))


def _fitted(site: Any) -> dict[str, Any]:
    """The site's baseline options, with what the network returns in the shape of Pyro's downstream cost."""
    options = dict(site["infer"]["baseline"])
    network = options.get("nn_baseline")
    if network is None:
        return options
    shape, name = site["fn"].batch_shape, site["name"]

    def fitted(inputs: Any) -> Tensor:
        baseline = network(inputs)
        try:
            baseline = baseline.expand(shape)
        except RuntimeError as error:
            raise ValueError(
                f"expected the baseline of site {name!r} to broadcast to its batch shape {list(shape)}, got "
                f"{list(baseline.shape)}. A baseline returns one number for each draw."
            ) from error
        while baseline.dim() > 0 and baseline.shape[0] == 1:  # as Pyro's MultiFrameTensor.sum_to does to the cost
            baseline = baseline.squeeze(0)
        return baseline

    return {**options, "nn_baseline": fitted}


class NeuralBaseline(nn.Module):
    """Predicts the cost downstream of a draw: a perceptron with ELU units and one output.

    Args:
        input_size: dimension of the input.
        hidden_sizes: units of the hidden layers; none for a linear baseline.
        scale: what the output is multiplied with: how many nats a cost typically is. The ELBO of a picture is
            hundreds or thousands, which takes an optimiser of small steps long to reach from 0.
    """

    def __init__(self, input_size: int, hidden_sizes: Sequence[int] = (128,), scale: float = 1.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for size in hidden_sizes:
            layers += [nn.Linear(input_size, size), nn.ELU()]
            input_size = size
        self.layers = nn.Sequential(*layers, nn.Linear(input_size, 1))
        self.scale = scale

    def forward(self, inputs: Tensor) -> Tensor:
        """Shape ``[*, input]`` to ``[*]``."""
        return self.scale * self.layers(inputs).squeeze(-1)


class BaselinedGuide(nn.Module):
    """A guide whose draws have baselines; see `with_baselines`."""

    def __init__(
        self,
        guide: Callable,
        networks: Mapping[str, Callable[[Tensor], Tensor] | None],
        inputs: Callable[..., Tensor] | None = None,
        decay: float | None = None,
    ) -> None:
        super().__init__()
        if decay is not None and not 0 <= decay < 1:
            raise ValueError(f"expected a decay in [0, 1), got {decay}")
        if inputs is None and any(network is not None for network in networks.values()):
            raise ValueError("expected `inputs` for the networks, a function of the guide's arguments, got none")
        self.guide = guide
        self.networks = nn.ModuleList(n for n in networks.values() if isinstance(n, nn.Module))
        self._by_pattern = dict(networks)
        self.inputs = inputs
        self.decay = decay

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the guide."""
        if len(self.networks) > 0:
            pyro.module("baselines", self.networks)  # for SVI, which looks for parameters in the trace
        inputs = None if self.inputs is None else self.inputs(*args, **kwargs)
        with _Attach(self._by_pattern, inputs, self.decay):
            return self.guide(*args, **kwargs)


def with_baselines(
    guide: Callable,
    networks: Mapping[str, Callable[[Tensor], Tensor] | None],
    inputs: Callable[..., Tensor] | None = None,
    *,
    decay: float | None = None,
) -> BaselinedGuide:
    """Gives baselines to draws of any guide, for `NVIL` or Pyro's `TraceGraph_ELBO`; others do not mind them.

        guide = with_baselines(guide, {"frame_*/pres": NeuralBaseline(784)}, lambda x: x.flatten(1))

    A guide that knows more when it draws than its arguments say may attach a baseline itself:
    `infer={"baseline": {"nn_baseline": network, "nn_baseline_input": what_is_known}}`. What it learns from is
    detached either way.

    Args:
        guide: any Pyro program.
        networks: by pattern of site names (`*` and `?` as in file names), a network that maps `inputs`, shape
            ``[*, F]``, to a number for each draw, shape ``[*]``; or None for the mean given by `decay` alone. The
            first pattern that fits counts. Reparameterised and observed sites are passed over.
        inputs: called with the guide's arguments, makes what the networks see. It must not depend on draws.
        decay: if given, the baseline is the network's plus a running mean of the cost that decays by this factor a
            step. Pyro keeps one for each site and position in the batch, so batches have to have one size.

    Returns:
        A module that holds the networks, and the guide if it is a module.

    Raises:
        ValueError: if networks have no inputs, or the decay is out of range.
    """
    return BaselinedGuide(guide, networks, inputs, decay)


class _Attach(Messenger):
    def __init__(self, networks: Mapping[str, Any], inputs: Tensor | None, decay: float | None) -> None:
        super().__init__()
        self.networks, self.inputs, self.decay = networks, inputs, decay

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg) or getattr(msg["fn"], "has_rsample", False):
            return
        pattern = next((p for p in self.networks if fnmatchcase(msg["name"], p)), None)
        if pattern is None:
            return
        options: dict[str, Any] = {}
        network = self.networks[pattern]
        if network is not None:
            options |= {"nn_baseline": network, "nn_baseline_input": self.inputs}
        if self.decay is not None:
            options |= {"use_decaying_avg_baseline": True, "baseline_beta": self.decay}
        msg["infer"] = {**(msg["infer"] or {}), "baseline": options}
