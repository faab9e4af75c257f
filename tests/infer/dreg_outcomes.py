# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Models and guides with mixed draws, and all their outcomes: discrete draws by enumeration, noise by quadrature.

Each outcome of the discrete draws at each node of the quadrature is an element of the data plate. The mean of one run
of the real estimator, weighted by probabilities, is its expectation up to the quadrature error.
"""

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from enumeration import Forced, MaskedLate
from pyro import poutine
from torch import Tensor

from pyro_sqair.infer.log_weights import LogWeights, log_weights
from pyro_sqair.infer.multi_sample import MultiSampleELBO, log_mean_exp

F64 = torch.float64
X = 0.7


def parameters() -> tuple[Tensor, Tensor, Tensor]:
    """Parameters: theta of the model, phi of the guide, and one of both."""
    theta = torch.tensor([0.3, -0.4, 0.4, 0.6, -0.5, 0.9], dtype=F64, requires_grad=True)
    phi = torch.tensor([0.5, -0.3, 0.9, 0.4, -0.7, -0.1, -0.6, 0.4], dtype=F64, requires_grad=True)
    return theta, phi, torch.tensor(0.35, dtype=F64, requires_grad=True)


def replicated(count: int) -> list[Tensor]:
    """Separate parameters for each datum, so that one run gives the gradient of each: [..., count]."""
    return [p.detach().unsqueeze(-1).repeat(*[1] * p.dim(), count).requires_grad_() for p in parameters()]


def by_replica(grads: tuple[Tensor, ...]) -> Tensor:
    """Gradients of replicated parameters as [count, parameters]."""
    return torch.cat([grad.reshape(-1, grad.shape[-1]) for grad in grads]).T


def normal(loc: Tensor, scale: Tensor | float) -> dist.Normal:
    return dist.Normal(loc, torch.as_tensor(scale, dtype=F64))


def mixed_pair(kind: str, theta: Tensor, phi: Tensor, shared: Tensor) -> tuple[Callable, Callable]:
    """z1 -> d1 -> z2 -> d2 in the guide, each given all previous ones; `kind` is the mask or scale of z2."""

    def draw_z2(fn: dist.Normal, d1: Tensor, held: dict[str, Tensor]) -> Tensor:
        if kind == "late mask":
            return pyro.sample("z2", MaskedLate(fn, held))
        if kind == "early mask":
            with poutine.mask(mask=d1.bool()):
                return pyro.sample("z2", fn)
        if kind == "mask of the distribution":
            return pyro.sample("z2", fn.mask(d1.bool()))
        if kind == "blanked":
            return pyro.sample("z2", fn.mask(False))
        if kind == "scale":
            with poutine.scale(scale=1.5):
                return pyro.sample("z2", fn)
        if kind == "mask within the event":
            fn = normal(fn.loc.unsqueeze(-1) + torch.tensor([0.0, 0.3], dtype=F64), fn.scale.unsqueeze(-1))
            fn = fn.mask(torch.stack([d1, torch.ones_like(d1)], -1).bool()).to_event(1).mask(d1 < 2)
            return (pyro.sample("z2", fn) * torch.tensor([1.0, -0.5], dtype=F64)).sum(-1)
        assert kind == "plain"
        return pyro.sample("z2", fn)

    def guide(x):
        held: dict[str, Tensor] = {}
        with pyro.plate("data", len(x)):
            z1 = phi[0] * x
            if kind != "mask within the event":  # whose z2 has two dimensions of noise
                z1 = pyro.sample("z1", normal(z1, 1.15 * phi[1].exp()))
            d1 = pyro.sample("d1", dist.Bernoulli(logits=phi[2] * z1 + phi[3] * x))
            z2 = draw_z2(normal(phi[4] * d1 + shared * z1, (phi[5] + 0.1 * d1).exp()), d1, held)
            held["mask"] = pyro.sample("d2", dist.Bernoulli(logits=phi[6] * z2 + phi[7] * d1))

    def model(x):
        held: dict[str, Tensor] = {}
        with pyro.plate("data", len(x)):
            z1 = theta[0]
            if kind != "mask within the event":
                z1 = pyro.sample("z1", normal(z1, 1.0))
            d1 = pyro.sample("d1", dist.Bernoulli(logits=theta[1] + shared * z1))
            z2 = draw_z2(normal(theta[2] * z1 - d1, 1.0), d1, held)
            d2 = pyro.sample("d2", dist.Bernoulli(logits=theta[3] + 0.0 * x))
            held["mask"] = d2
            counts = d2 if kind == "late mask" else d1 if "early" in kind or "distribution" in kind else 1.0
            counts = 0.0 if kind == "blanked" else counts  # the likelihood ignores masked draws
            pyro.sample("x", normal(z1 + theta[4] * counts * z2 + theta[5] * d1 * d2, 1.5), obs=x)

    return model, guide


def continuous_pair(theta: Tensor, phi: Tensor, shared: Tensor) -> tuple[Callable, Callable]:
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z1", normal(phi[0] * x + shared, phi[1].exp()))

    def model(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", normal(theta[0], 1.0))
            pyro.sample("x", normal(theta[2] * torch.sin(z1) + shared * z1, 0.9), obs=x)

    return model, guide


class Outcomes:
    """All bits of K particles at the quadrature nodes of their noise, along the data plate."""

    def __init__(self, num_particles: int, bits: list[str], noise: list[str], nodes: int) -> None:
        patterns = torch.tensor(list(itertools.product((0.0, 1.0), repeat=num_particles * len(bits))), dtype=F64)
        size = num_particles * len(noise)
        x, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(nodes))
        points = torch.cartesian_prod(*[x] * size).reshape(-1, size)
        self.weight = torch.cartesian_prod(*[w / w.sum()] * size).reshape(-1, size).prod(-1)
        self.shape = (len(points), len(patterns))
        patterns, points = patterns.repeat(len(points), 1).T, points.repeat_interleave(len(patterns), 0).T
        drawn = dict(zip(bits, patterns.split(num_particles), strict=True)) if bits else {}
        if noise == ["z2", "z2"]:  # two elements
            forced = {"z2": torch.stack(points.split(num_particles), -1)}
        else:
            forced = dict(zip(noise, points.split(num_particles), strict=True))
        self.forced = Forced(drawn, forced)
        self.num_particles = num_particles
        self.x = torch.full((points.shape[1],), X, dtype=F64)

    def particles(self, model: Callable, guide: Callable) -> LogWeights:
        return log_weights(model, guide, (self.x,), num_particles=self.num_particles, max_plate_nesting=1)

    def gradients(self, pair: Callable, value: Callable[[Callable, Callable], Tensor]) -> Tensor:
        """Gradients of the sum over outcomes of a value [outcomes], for each noise point: [points, parameters]."""
        leaves = replicated(len(self.x))
        with self.forced:
            total = value(*pair(*leaves)).sum()
        grads = torch.autograd.grad(total, leaves, materialize_grads=True)
        return by_replica(grads).unflatten(0, self.shape).sum(1)

    def exact(self, pair: Callable, bound: Callable[[Tensor], Tensor] = log_mean_exp) -> Tensor:
        """Without an estimator: the gradient of the bound times the probability of the bits."""

        def value(model: Callable, guide: Callable) -> Tensor:
            out = self.particles(model, guide)
            return bound(out.log_weight) if out.score is None else out.score.sum(0).exp() * bound(out.log_weight)

        return self.gradients(pair, value)

    def estimated(self, pair: Callable, estimator: MultiSampleELBO) -> Tensor:
        """The gradient of the estimator times the probability of the bits."""

        def value(model: Callable, guide: Callable) -> Tensor:
            out = self.particles(model, guide)
            surrogate = estimator.surrogate(model, guide, self.x)
            return surrogate if out.score is None else out.score.sum(0).exp().detach() * surrogate

        return self.gradients(pair, value)

    def mean(self, gradients: Tensor) -> Tensor:
        return self.weight @ gradients


KINDS = ("plain", "late mask", "early mask", "mask of the distribution", "blanked", "scale", "mask within the event")


def mixed(kind: str, nodes: int = 8) -> tuple[Callable, Outcomes]:
    """K = 2: 16 outcomes of the bits times nodes^4."""
    noise = ["z2", "z2"] if kind == "mask within the event" else ["z1", "z2"]
    return partial(mixed_pair, kind), Outcomes(2, ["d1", "d2"], noise, nodes)


QUADRATURE = 1e-5  # error of 8 nodes; it falls tenfold with each node (4 nodes: 1e-3, 12: 1e-7)


def linear_gaussian(slope: Tensor, log_scale: Tensor) -> tuple[Callable, Callable]:
    """z ~ N(0, 1), x ~ N(z, 1); the posterior is N(x / 2, 1 / 2)."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(torch.zeros((), dtype=F64), 1.0))
            pyro.sample("x", normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(slope * x, log_scale.exp()))

    return model, guide
