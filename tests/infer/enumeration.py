# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Exact expected gradients of estimators in float64, by enumerating every outcome of binary draws.

With n bits per particle there are 2^(n K) outcomes. Each is an element of the data plate, so one run of the real
estimator, with given binary draws and fixed noise, gives the surrogates of all outcomes. Their mean is weighted by
the probabilities. The expected values are computed from log-probabilities written by hand, without Pyro.
"""

import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple, Protocol

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.score_parts import ScoreParts
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_sqair.infer.plates import PARTICLES

Parameters = tuple[Tensor, ...]
Values = dict[str, Tensor]


class Weighed(NamedTuple):
    """Log-probabilities of particles, computed by hand, [K, outcomes] each."""

    log_p: Tensor  # log p(x, z), masked and scaled
    log_q: Tensor  # log q(z | x), masked and scaled
    score: Tensor  # log-probability of the bits, neither masked nor scaled
    scored_log_q: Tensor  # the part of log_q from the bits


class Pair(Protocol):
    """A model and guide with binary and normal draws, in Pyro and by hand."""

    data: Tensor  # [B, ...]
    num_bits: int  # binary draws per particle
    num_noise: int  # standard normal draws per particle

    def parameters(self) -> Parameters:
        """New leaves, float64."""

    def programs(self, parameters: Parameters) -> tuple[Callable, Callable]:
        """(model, guide), both called with the data."""

    def layout(self, bits: Tensor, noise: Tensor) -> tuple[Values, Values]:
        """The values of the binary sites and the noise of the normal ones, from [bits or noise, K, data] each."""

    def by_hand(
        self, parameters: Parameters, x: Tensor, bits: Tensor, noise: Tensor, cut: Callable[[Tensor], Tensor]
    ) -> Weighed:
        """The log-probabilities of the programs; `cut` is applied to every normal draw."""


class Forced(Messenger):
    """Sets binary draws to given bits, and normal draws to loc + scale * given noise, as if they were sampled.

    The first dimension is the particles'. One of several runs, one for each particle, gets the values of its particle.
    """

    def __init__(self, bits: Values, noise: Values) -> None:
        super().__init__()
        self.bits, self.noise = bits, noise

    def _pyro_sample(self, msg) -> None:
        if msg["done"] or msg["is_observed"]:
            return
        alone = [frame for frame in msg["cond_indep_stack"] if frame.name == PARTICLES and frame.dim is None]
        particle = alone[0].counter - 1 if alone else slice(None)
        if msg["name"] in self.bits:
            # A sample carries the provenance that NVIL tracks: the names of the draws that this one depends on.
            msg["value"], msg["done"] = self.bits[msg["name"]][particle] + 0 * msg["fn"].sample(), True
        elif msg["name"] in self.noise:
            fn = msg["fn"]
            while not hasattr(fn, "loc"):
                fn = fn.base_dist
            msg["value"], msg["done"] = fn.loc + fn.scale * self.noise[msg["name"]][particle], True


class MaskedLate(TorchDistribution):
    """A distribution masked by `holder["mask"]`, a later draw, which is read when the log-probability is computed."""

    arg_constraints: ClassVar[dict] = {}

    def __init__(self, base: TorchDistribution, holder: Values) -> None:
        self.base_dist, self.holder, self.has_rsample = base, holder, base.has_rsample
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return MaskedLate(self.base_dist.expand(batch_shape), self.holder)

    def rsample(self, sample_shape=()):
        return self.base_dist.rsample(torch.Size(sample_shape))

    def sample(self, sample_shape=()):
        return self.base_dist.sample(torch.Size(sample_shape))

    def log_prob(self, value):
        return torch.where(self.holder["mask"] > 0, self.base_dist.log_prob(value), 0.0)

    def score_parts(self, value):
        """The score of a draw that is not reparameterised is not masked, since later draws may depend on it."""
        log_prob = self.log_prob(value)
        if self.has_rsample:
            return ScoreParts(log_prob, 0, log_prob)
        return ScoreParts(log_prob, self.base_dist.log_prob(value), 0)


class Outcomes:
    """Every outcome of K particles for the first data of the pair, along the data plate."""

    def __init__(self, pair: Pair, num_particles: int, data: int = 2) -> None:
        self.pair, self.data = pair, pair.data[:data]
        self.count = 2 ** (pair.num_bits * num_particles)
        digits = torch.arange(pair.num_bits * num_particles).unsqueeze(-1)
        bits = (torch.arange(self.count) >> digits) & 1  # binary numbers
        bits = bits.double().repeat(1, len(self.data))  # outcomes of datum 0, then of datum 1
        self.bits = bits.reshape(pair.num_bits, num_particles, -1)
        generator = torch.Generator().manual_seed(1)
        shape = (pair.num_noise, num_particles, len(self.data))
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        self.noise = noise.repeat_interleave(self.count, -1)
        self.x = self.data.repeat_interleave(self.count, 0)
        self.forced = Forced(*pair.layout(self.bits, self.noise))

    def weighed(self, parameters: Parameters, cut: Callable[[Tensor], Tensor] = lambda draw: draw) -> Weighed:
        """The particles of every outcome, by hand."""
        return self.pair.by_hand(parameters, self.x, self.bits, self.noise, cut)

    def exact_gradient(self, alpha: float = 0.0) -> Tensor:
        """The gradient of E[L], L of order alpha, summed over data; includes that of the probabilities."""
        parameters = self.pair.parameters()
        particles = self.weighed(parameters)
        bound = bound_by_hand(particles.log_p - particles.log_q, alpha)
        return _flat((particles.score.sum(0).exp() * bound).sum(), parameters)

    def mean_gradient(self, term: Callable[[Weighed], Tensor], cut: bool = False) -> Tensor:
        """E[gradient of term], where term is [outcomes]; with `cut`, no gradient passes through a draw."""
        parameters = self.pair.parameters()
        particles = self.weighed(parameters, torch.detach if cut else lambda draw: draw)
        return _flat((particles.score.sum(0).exp().detach() * term(particles)).sum(), parameters)

    def estimated_gradient(self, surrogate: Callable[[Callable, Callable, Tensor], Tensor]) -> Tensor:
        """E[gradient of an estimator's surrogate], from the Pyro programs."""
        parameters = self.pair.parameters()
        with self.forced:
            value = surrogate(*self.pair.programs(parameters), self.x)
        probability = self.weighed(parameters).score.sum(0).exp().detach()
        return _flat((probability * value).sum(), parameters)

    def estimated_value(self, surrogate: Callable[[Callable, Callable, Tensor], Tensor]) -> Tensor:
        """The surrogate's value of each outcome."""
        with self.forced:
            return surrogate(*self.pair.programs(self.pair.parameters()), self.x)


def bound_by_hand(log_weight: Tensor, alpha: float = 0.0) -> Tensor:
    """log(mean_k w_k^(1 - alpha)) / (1 - alpha): [K, outcomes] to [outcomes]."""
    return ((1 - alpha) * log_weight).exp().mean(0).log() / (1 - alpha)


def shares_by_hand(log_weight: Tensor, alpha: float = 0.0) -> Tensor:
    """w_k^(1 - alpha) / sum_l w_l^(1 - alpha), without gradient: [K, outcomes]."""
    weight = ((1 - alpha) * log_weight.detach()).exp()
    return weight / weight.sum(0)


def log_normal(x: Tensor, loc: Tensor | float, scale: Tensor | float) -> Tensor:
    """Log density of a normal distribution."""
    scale = torch.as_tensor(scale, dtype=torch.float64)
    return -0.5 * ((x - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)


def log_bernoulli(b: Tensor, logits: Tensor) -> Tensor:
    """Log-probability of a bit."""
    return b * logsigmoid(logits) + (1 - b) * logsigmoid(-logits)


def leaf(*values: float) -> Tensor:
    """A float64 parameter."""
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def _flat(total: Tensor, parameters: Parameters) -> Tensor:
    grads = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in grads])
