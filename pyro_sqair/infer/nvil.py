# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""NVIL: the score-function gradient of the ELBO with learned baselines, based on Pyro's `TraceGraph_ELBO`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from pyro.distributions import MaskedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.infer import TraceGraph_ELBO
from pyro.infer.util import is_validation_enabled
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn

from pyro_sqair.infer.log_weights import matched_sites, unmasked_score
from pyro_sqair.infer.particles import compare_particles
from pyro_sqair.infer.plates import PlatedSite
from pyro_sqair.infer.runs import vectorised


class NVIL(TraceGraph_ELBO):
    """Neural variational inference and learning (Mnih & Gregor 2014): the ELBO, with a baseline for each discrete draw.

    The signal of a draw that is not reparameterised is the cost downstream of that draw, minus a baseline. Pyro
    tracks which costs are downstream. The guide attaches the baseline to the sample site, with Pyro's own option:

        infer = {"baseline": {"nn_baseline": network, "nn_baseline_input": features}}
        pyro.sample("present", dist.Bernoulli(logits=logits), infer=infer)

    The features may contain everything that is known before the draw. Pyro detaches them. A baseline does not change
    the expected gradient of the other parameters. Its squared error is added to the gradient, but not to the value of
    the loss. This error is large compared with the ELBO, so clip the gradients of the baselines separately.

    Three things differ from Pyro's estimator. Draws whose distribution is masked by `.mask(False)` or by a later draw
    get the correct score term. A baseline may have any shape that broadcasts to the batch shape of its site. The
    estimator has a `differentiable_loss`, so that `NVIL()(model, guide)` is a module for a PyTorch optimiser.

    Args:
        num_particles: number of samples over which the ELBO is averaged. Unlike in `MultiSampleELBO`, more particles do
            not make the bound tighter: they lower the variance of its estimate.
        max_plate_nesting: number of dimensions of the plates of model and guide; found by a trial run if not given.
        vectorize_particles: whether to run the programs once, in a plate of particles left of all others, or once for
            each particle.

    Raises:
        ValueError: if `num_particles` is below 1; when it runs, if the sites of model and guide differ, a site is
            enumerated, a baseline has a wrong shape or, under Pyro's validation, a log-probability is not finite or
            `check_particles` finds that the programs cannot be vectorised.
    """

    _checked = False

    def __init__(
        self, num_particles: int = 1, max_plate_nesting: float = math.inf, *, vectorize_particles: bool = True
    ) -> None:
        if num_particles < 1:
            raise ValueError(f"expected num_particles >= 1 for NVIL, got {num_particles}")
        super().__init__(
            num_particles=num_particles,
            max_plate_nesting=max_plate_nesting,
            vectorize_particles=vectorize_particles and num_particles > 1,
        )

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the ELBO; the gradient includes that of the squared error of the baselines."""
        elbo, surrogate = self._loss_and_surrogate_loss(model, guide, args, kwargs)
        return surrogate - surrogate.detach() - elbo.detach()

    def _get_vectorized_trace(
        self, model: Callable, guide: Callable, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[Trace, Trace]:
        if not self._checked and is_validation_enabled():
            compare_particles(model, guide, args, kwargs, int(self.max_plate_nesting) - 1)
            self._checked = True
        return super()._get_vectorized_trace(model, guide, args, kwargs)

    def _get_trace(self, model: Callable, guide: Callable, args: tuple, kwargs: dict[str, Any]) -> tuple[Trace, Trace]:
        with vectorised() if self.vectorize_particles else nullcontext():
            model_trace, guide_trace = super()._get_trace(model, guide, args, kwargs)
        guide_sites, model_sites = matched_sites(model_trace, guide_trace)
        if is_validation_enabled():
            _check_finite(guide_sites, "guide")
            _check_finite(model_sites, "model")
        for site in guide_trace.nodes.values():
            if site["type"] == "sample" and not getattr(site["fn"], "has_rsample", False):
                _correct_score(site)
                _broadcast_baseline(site)
        return model_trace, guide_trace


def _check_finite(sites: list[PlatedSite], program: str) -> None:
    """One infinite term makes the ELBO infinite. The check synchronises with the device, so only validation runs it."""
    for site, _ in sites:
        log_prob = site["log_prob"]
        if not log_prob.isfinite().all():
            got = "NaN" if log_prob.isnan().any() else "infinite ones"
            raise ValueError(
                f"expected finite log-probabilities, got {got} at site {site['name']!r} of the {program}. Check that "
                "its value is a number in the support, and keep probabilities away from 0 and 1 and scales away from 0."
            )


def _correct_score(site: Any) -> None:
    parts = site["score_parts"]
    if isinstance(site["fn"], MaskedDistribution):
        site["score_parts"] = parts._replace(score_function=unmasked_score(site, parts))
    elif site["unscaled_log_prob"] is not parts.score_function:
        # The distribution masks its own log-probability, perhaps by a later draw m that depends on this one. Pyro drops
        # the gradient of m log q with respect to the parameters of q, because E[grad(log q)] = 0, but
        # E[m grad(log q)] is not 0. E[(m - 1) grad(log q)] has the same value, and is zero where nothing is masked.
        late = site["unscaled_log_prob"] - parts.score_function
        site["score_parts"] = parts._replace(entropy_term=scale_and_mask(late, site["scale"], site["mask"]))


def _broadcast_baseline(site: Any) -> None:
    """Gives the output of the site's baseline network the shape of Pyro's downstream cost."""
    options = site["infer"].get("baseline", {})
    network = options.get("nn_baseline")
    if network is None:
        return
    shape, name = site["fn"].batch_shape, site["name"]

    def broadcast(inputs: Any) -> Tensor:
        baseline = network(inputs)
        try:
            baseline = baseline.expand(shape)
        except RuntimeError as error:
            raise ValueError(
                f"expected the baseline of site {name!r} to broadcast to its batch shape {list(shape)}, got "
                f"{list(baseline.shape)}. A baseline returns one number for each draw."
            ) from error
        while baseline.dim() > 0 and baseline.shape[0] == 1:  # Pyro's MultiFrameTensor.sum_to does this to the cost
            baseline = baseline.squeeze(0)
        return baseline

    site["infer"] = {**site["infer"], "baseline": {**options, "nn_baseline": broadcast}}


class NeuralBaseline(nn.Module):
    """Predicts the cost downstream of a draw: a multilayer perceptron with ELU activations and one output.

    Args:
        input_size: dimension of the input.
        hidden_sizes: units of the hidden layers; empty for a linear baseline.
        scale: factor on the output: the typical size of the cost, in nats. The ELBO of an image is hundreds or
            thousands of nats, and an optimiser with small steps takes long to reach such values from 0.
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
        """Maps features of shape ``[*, input_size]`` to predictions of shape ``[*]``."""
        return self.scale * self.layers(inputs).squeeze(-1)
