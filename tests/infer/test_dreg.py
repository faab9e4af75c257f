# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""DReG against the gradient of its bound: discrete draws enumerated, continuous noise by quadrature.

Each outcome of all discrete draws at each node of the quadrature is an element of the data plate. One run of the real
estimator on all of them, weighed by their probabilities, is its expectation, up to the error of the quadrature.
"""

import itertools
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormalMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.plate_messenger import block_plate
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_sqair.guides import SQAIRGuide
from pyro_sqair.infer import OVIS, RWS, VIMCO, DReG, IWAEWithoutScore, ReleasedSQAIRSignal, gates
from pyro_sqair.infer.log_weights import LogWeights, log_weights
from pyro_sqair.infer.multi_sample import MultiSampleELBO, log_mean_exp
from pyro_sqair.models import SQAIR
from pyro_sqair.networks import SetEncoder
from pyro_sqair.scene import SceneConfig

F64 = torch.float64
X = 0.7


class Forced(Messenger):
    """Sets discrete draws to given bits, normal ones to loc + scale * given noise, as if sampled."""

    def __init__(self, bits: dict[str, Tensor], noise: dict[str, Tensor]) -> None:
        super().__init__()
        self.bits, self.noise = bits, noise

    def _pyro_sample(self, msg) -> None:
        if msg["done"] or msg["is_observed"]:
            return
        if msg["name"] in self.bits:
            msg["value"], msg["done"] = self.bits[msg["name"]], True
        elif msg["name"] in self.noise:
            fn = msg["fn"]
            while not hasattr(fn, "loc"):
                fn = fn.base_dist
            noise = self.noise[msg["name"]]
            msg["value"], msg["done"] = fn.loc + fn.scale * noise, True


class MaskedLate(TorchDistribution):
    """A normal whose mask is read when its log-probability is taken, after the program has run."""

    arg_constraints: dict = {}
    has_rsample = True

    def __init__(self, base: dist.Normal, holder: dict[str, Tensor]) -> None:
        self.base_dist, self.holder = base, holder
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return MaskedLate(self.base_dist.expand(batch_shape), self.holder)

    def rsample(self, sample_shape=()):
        return self.base_dist.rsample(torch.Size(sample_shape))

    def log_prob(self, value):
        return torch.where(self.holder["d2"] > 0, self.base_dist.log_prob(value), 0.0)


def parameters() -> tuple[Tensor, Tensor, Tensor]:
    """Parameters (theta of the model, phi of the guide, one that they share)."""
    theta = torch.tensor([0.3, -0.4, 0.4, 0.6, -0.5, 0.9], dtype=F64, requires_grad=True)
    phi = torch.tensor([0.5, -0.3, 0.9, 0.4, -0.7, -0.1, -0.6, 0.4], dtype=F64, requires_grad=True)
    return theta, phi, torch.tensor(0.35, dtype=F64, requires_grad=True)


def replicated(count: int) -> list[Tensor]:
    """The parameters once more for each datum, so that one run gives the gradient of each: [..., count]."""
    return [p.detach().unsqueeze(-1).repeat(*[1] * p.dim(), count).requires_grad_() for p in parameters()]


def by_replica(grads: tuple[Tensor, ...]) -> Tensor:
    """[count, parameters]"""
    return torch.cat([grad.reshape(-1, grad.shape[-1]) for grad in grads]).T


def normal(loc: Tensor, scale: Tensor | float) -> dist.Normal:
    return dist.Normal(loc, torch.as_tensor(scale, dtype=F64))


def mixed_pair(kind: str, theta: Tensor, phi: Tensor, shared: Tensor) -> tuple[Callable, Callable]:
    """z1 -> d1 -> z2 -> d2 in the guide, where each sees all before it; how z2 counts in the weight is the kind."""

    def draw_z2(law: dist.Normal, d1: Tensor, held: dict[str, Tensor]) -> Tensor:
        if kind == "late mask":
            return pyro.sample("z2", MaskedLate(law, held))
        if kind == "early mask":
            with poutine.mask(mask=d1.bool()):
                return pyro.sample("z2", law)
        if kind == "mask of the distribution":
            return pyro.sample("z2", law.mask(d1.bool()))
        if kind == "blanked":
            return pyro.sample("z2", law.mask(False))
        if kind == "scale":
            with poutine.scale(scale=1.5):
                return pyro.sample("z2", law)
        if kind == "mask within the event":
            law = normal(law.loc.unsqueeze(-1) + torch.tensor([0.0, 0.3], dtype=F64), law.scale.unsqueeze(-1))
            law = law.mask(torch.stack([d1, torch.ones_like(d1)], -1).bool()).to_event(1).mask(d1 < 2)
            return (pyro.sample("z2", law) * torch.tensor([1.0, -0.5], dtype=F64)).sum(-1)
        assert kind == "plain"
        return pyro.sample("z2", law)

    def guide(x):
        held: dict[str, Tensor] = {}
        with pyro.plate("data", len(x)):
            z1 = phi[0] * x
            if kind != "mask within the event":  # which takes two dimensions of noise itself
                z1 = pyro.sample("z1", normal(z1, 1.15 * phi[1].exp()))
            d1 = pyro.sample("d1", dist.Bernoulli(logits=phi[2] * z1 + phi[3] * x))
            z2 = draw_z2(normal(phi[4] * d1 + shared * z1, (phi[5] + 0.1 * d1).exp()), d1, held)
            held["d2"] = pyro.sample("d2", dist.Bernoulli(logits=phi[6] * z2 + phi[7] * d1))

    def model(x):
        held: dict[str, Tensor] = {}
        with pyro.plate("data", len(x)):
            z1 = theta[0]
            if kind != "mask within the event":
                z1 = pyro.sample("z1", normal(z1, 1.0))
            d1 = pyro.sample("d1", dist.Bernoulli(logits=theta[1] + shared * z1))
            z2 = draw_z2(normal(theta[2] * z1 - d1, 1.0), d1, held)
            d2 = pyro.sample("d2", dist.Bernoulli(logits=theta[3] + 0.0 * x))
            held["d2"] = d2
            counts = d2 if kind == "late mask" else d1 if "early" in kind or "distribution" in kind else 1.0
            counts = 0.0 if kind == "blanked" else counts  # what is masked is auxiliary: the likelihood ignores it
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
    """All bits of K particles, at quadrature nodes of their noise, side by side in the data plate."""

    def __init__(self, num_particles: int, bits: list[str], noise: list[str], nodes: int) -> None:
        patterns = torch.tensor(list(itertools.product((0.0, 1.0), repeat=num_particles * len(bits))), dtype=F64)
        size = num_particles * len(noise)
        x, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(nodes))
        points = torch.cartesian_prod(*[x] * size).reshape(-1, size)
        self.weight = torch.cartesian_prod(*[w / w.sum()] * size).reshape(-1, size).prod(-1)
        self.shape = (len(points), len(patterns))
        patterns, points = patterns.repeat(len(points), 1).T, points.repeat_interleave(len(patterns), 0).T
        drawn = dict(zip(bits, patterns.split(num_particles), strict=True)) if bits else {}
        if noise == ["z2", "z2"]:  # its two elements
            forced = {"z2": torch.stack(points.split(num_particles), -1)}
        else:
            forced = dict(zip(noise, points.split(num_particles), strict=True))
        self.forced = Forced(drawn, forced)
        self.num_particles = num_particles
        self.x = torch.full((points.shape[1],), X, dtype=F64)

    def particles(self, model: Callable, guide: Callable) -> LogWeights:
        return log_weights(model, guide, (self.x,), num_particles=self.num_particles, max_plate_nesting=1)

    def gradients(self, pair: Callable, value: Callable[[Callable, Callable], Tensor]) -> Tensor:
        """Of the sum over outcomes of a value [outcomes], for each point of the noise: [points, parameters]."""
        leaves = replicated(len(self.x))
        with self.forced:
            total = value(*pair(*leaves)).sum()
        grads = torch.autograd.grad(total, leaves, materialize_grads=True)
        return by_replica(grads).unflatten(0, self.shape).sum(1)

    def exact(self, pair: Callable, bound: Callable[[Tensor], Tensor] = log_mean_exp) -> Tensor:
        """No estimator: the bound times the probability of the bits, both differentiated."""

        def value(model: Callable, guide: Callable) -> Tensor:
            out = self.particles(model, guide)
            return bound(out.log_weight) if out.score is None else out.score.sum(0).exp() * bound(out.log_weight)

        return self.gradients(pair, value)

    def estimated(self, pair: Callable, estimator: MultiSampleELBO) -> Tensor:
        """The estimator's gradient, times the probability of the bits."""

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


QUADRATURE = 1e-5  # what 8 nodes leave: an error that falls tenfold with every node (4 nodes: 1e-3, 12: 1e-7)


class TestExpectation:
    @pytest.mark.parametrize("kind", KINDS)
    def test_mixed_draws(self, kind):
        pair, outcomes = mixed(kind)
        vimco = VIMCO(2, max_plate_nesting=1)
        exact = outcomes.exact(pair)
        # The discrete draws are enumerated, so this holds at each node.
        torch.testing.assert_close(outcomes.estimated(pair, vimco), exact, rtol=0, atol=1e-10)
        got, exact = outcomes.mean(outcomes.estimated(pair, DReG(vimco))), outcomes.mean(exact)
        assert (exact.abs() > 1e-3).sum() >= len(exact) - 4  # nearly every parameter is put to the test
        torch.testing.assert_close(got, exact, rtol=0, atol=QUADRATURE)

    def test_more_nodes_leave_less(self):
        errors = []
        for nodes in (4, 6, 8):
            pair, outcomes = mixed("late mask", nodes)
            got = outcomes.mean(outcomes.estimated(pair, DReG(VIMCO(2, max_plate_nesting=1))))
            errors.append((got - outcomes.mean(outcomes.exact(pair))).abs().max().item())
        assert errors[0] > 5 * errors[1] > 25 * errors[2]

    @pytest.mark.parametrize("kind", ["plain", "late mask"])
    @pytest.mark.parametrize(
        "estimator",
        [
            VIMCO(2, 1, "arithmetic", alpha=0.6),
            OVIS(2, 1, gamma=0.0),
            OVIS(2, 1, gamma=1.0),
            ReleasedSQAIRSignal(2, 1),
            IWAEWithoutScore(2, 1),
            IWAEWithoutScore(2, 1, alpha=0.3),
        ],
        ids=lambda e: f"{type(e).__name__}, {vars(e).get('gamma', e.alpha)}",
    )
    def test_of_any_estimator_is_kept(self, kind, estimator):
        """With its bias, if it has one."""
        pair, outcomes = mixed(kind)
        plain = outcomes.mean(outcomes.estimated(pair, estimator))
        got = outcomes.mean(outcomes.estimated(pair, DReG(estimator)))
        torch.testing.assert_close(got, plain, rtol=0, atol=QUADRATURE)

    @pytest.mark.parametrize("kind", ["plain", "late mask", "scale"])
    @pytest.mark.parametrize("num_particles", [3, 5])
    def test_more_particles(self, num_particles, kind):
        """By Monte Carlo: from the same draws, the difference from VIMCO's gradient has mean zero."""
        x = torch.full((10_000,), X, dtype=F64)
        gradients = []
        for elbo in (VIMCO(num_particles, 1), DReG(VIMCO(num_particles, 1))):
            leaves = replicated(len(x))
            pyro.set_rng_seed(0)
            loss = elbo.differentiable_loss(*mixed_pair(kind, *leaves), x)
            gradients.append(by_replica(torch.autograd.grad(-loss, leaves, materialize_grads=True)))
        difference = gradients[1] - gradients[0]
        standard_error = difference.std(0) / math.sqrt(len(x))
        assert (difference.mean(0).abs() <= 4 * standard_error + 1e-12).all()
        assert (standard_error > 1e-9).sum() >= 4
        assert standard_error.max() < 0.1 * gradients[0].mean(0).abs().max()

    @pytest.mark.parametrize("num_particles", [1, 2, 3])
    def test_continuous_draws(self, num_particles):
        outcomes = Outcomes(num_particles, [], ["z1"], nodes=24)
        estimator = IWAEWithoutScore(num_particles, 1)
        exact = outcomes.mean(outcomes.exact(continuous_pair))
        got = outcomes.mean(outcomes.estimated(continuous_pair, DReG(estimator)))
        assert (exact.abs() > 1e-2).sum() == 5
        torch.testing.assert_close(got, exact, rtol=0, atol=1e-7)

    @pytest.mark.parametrize("what", ["masks", "scores", "square"])
    def test_quadrature_catches_mistakes(self, what, monkeypatch):
        """The formula without regard to masks; without what discrete draws owe to continuous ones; v for v^2."""
        if what == "masks":
            monkeypatch.setattr(gates.Draw, "share", lambda self, scale: None)
        elif what == "scores":
            correction = DReG._correction
            monkeypatch.setattr(DReG, "_correction", lambda self, p: correction(self, p._replace(score=None)))
        else:
            monkeypatch.setattr(DReG, "_correction", lambda self, p: p.log_weight.sum() * 0)
        pair, outcomes = mixed("late mask")
        got = outcomes.mean(outcomes.estimated(pair, DReG(VIMCO(2, 1))))
        assert (got - outcomes.mean(outcomes.exact(pair))).abs().max() > 1000 * QUADRATURE


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


class TestContinuous:
    @pytest.mark.parametrize("alpha", [0.0, 0.7])
    @pytest.mark.parametrize("num_particles", [1, 5])
    def test_no_variance_where_the_guide_is_the_posterior(self, num_particles, alpha):
        x = torch.randn(50, dtype=F64)
        leaves = [torch.tensor(v, dtype=F64, requires_grad=True) for v in (0.5, -0.5 * math.log(2))]
        pair = linear_gaussian(*leaves)
        estimator = IWAEWithoutScore(num_particles, 1, alpha=alpha)
        gradient = torch.stack(torch.autograd.grad(DReG(estimator).differentiable_loss(*pair, x), leaves))
        assert gradient.abs().max() < 1e-12
        plain = torch.stack(torch.autograd.grad(estimator.differentiable_loss(*pair, x), leaves))
        assert plain.abs().min() > 1e-2

    def test_one_particle_sticks_the_landing(self):
        """Roeder et al. (2017), by hand: d/dz [log p(x, z) - log q(z)] dz/d(phi), the last log q at fixed phi."""
        x, noise = torch.randn(2, 50, dtype=F64)
        a, s = (torch.tensor(v, dtype=F64, requires_grad=True) for v in (0.2, 0.3))
        with Forced({}, {"z": noise.unsqueeze(0)}):
            loss = DReG(IWAEWithoutScore(1)).differentiable_loss(*linear_gaussian(a, s), x)
        got = torch.stack(torch.autograd.grad(loss, (a, s)))
        scale = s.exp().item()
        z = a.item() * x + scale * noise
        slope = -z + (x - z) + noise / scale
        torch.testing.assert_close(got, -torch.stack([(slope * x).sum(), (slope * noise * scale).sum()]))

    def gradients(self, estimator: MultiSampleELBO, replicas: int) -> Tensor:
        """Each replica of one datum has parameters of its own, so one run gives all their gradients: [2, replicas]."""
        a = torch.full((replicas,), 0.3, dtype=F64, requires_grad=True)
        s = torch.full((replicas,), -0.1, dtype=F64, requires_grad=True)
        x = torch.full((replicas,), 1.5, dtype=F64)
        loss = estimator.differentiable_loss(*linear_gaussian(a, s), x)
        return torch.stack(torch.autograd.grad(-loss, (a, s)))

    def test_mean_and_variance_against_plain_reparameterisation(self):
        replicas, snr = 4000, {}
        for num_particles in (5, 50):
            plain = self.gradients(VIMCO(num_particles), replicas)
            doubly = self.gradients(DReG(VIMCO(num_particles)), replicas)
            error = ((plain.var(1) + doubly.var(1)) / replicas).sqrt()
            assert ((plain.mean(1) - doubly.mean(1)).abs() < 4 * error).all()
            assert (doubly.var(1) < 0.2 * plain.var(1)).all()
            snr[num_particles] = [(g.mean(1).abs() / g.std(1)) for g in (plain, doubly)]
        # Rainforth et al. (2018): the plain signal drowns as K grows; Tucker et al.: the other does not.
        assert (snr[50][0] < 0.6 * snr[5][0]).all()
        assert (snr[50][1] > 1.5 * snr[5][1]).all()


def bits_model(x):
    with pyro.plate("data", len(x)):
        b = pyro.sample("b", dist.Bernoulli(0.3))
        with poutine.mask(mask=b.bool()):
            c = pyro.sample("c", dist.Bernoulli(0.6))
        pyro.sample("x", dist.Normal(b + c, 1.0), obs=x)


class TestDiscrete:
    @pytest.mark.parametrize("estimator", [VIMCO(3), OVIS(3, gamma=0.5), IWAEWithoutScore(3), VIMCO(3, alpha=0.4)])
    def test_it_is_the_other_estimator(self, estimator):
        logits = torch.tensor([0.2, -0.4], requires_grad=True)
        x = torch.randn(20)

        def guide(x):
            with pyro.plate("data", len(x)):
                b = pyro.sample("b", dist.Bernoulli(logits=logits[0] * x))
                with poutine.mask(mask=b.bool()):
                    pyro.sample("c", dist.Bernoulli(logits=logits[1] * x + b))

        results = []
        for elbo in (estimator, DReG(estimator)):
            elbo.loss(bits_model, guide, x)
            pyro.set_rng_seed(1)
            loss = elbo.differentiable_loss(bits_model, guide, x)
            results.append((loss, *torch.autograd.grad(loss, logits, materialize_grads=True)))
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


class TestShapes:
    """Plates, subsampling, autoguides and draws that are not converted."""

    def test_inner_plates_and_subsampling(self):
        """Each of 2 pixels' z in a plate of 6 counts three times in the weight; each datum 2.5 times, outside."""
        replicas, data = 4000, 4
        y = torch.randn(2, 1, dtype=F64).expand(2, data * replicas)
        leaves = [torch.full((data * replicas,), v, dtype=F64, requires_grad=True) for v in (1.5, -0.2, 0.6)]
        index = torch.arange(data * replicas)

        def model(y):
            with pyro.plate("data", 10 * replicas, subsample=index, dim=-1):
                u = pyro.sample("u", normal(torch.zeros((), dtype=F64), 1.0))
                with pyro.plate("pixels", 6, subsample=torch.arange(2), dim=-2):
                    z = pyro.sample("z", normal(u, 1.0))
                    pyro.sample("y", normal(z, 2.0), obs=y)

        def guide(y):
            with pyro.plate("data", 10 * replicas, subsample=index, dim=-1):
                u = pyro.sample("u", normal(leaves[0], leaves[1].exp()))
                with pyro.plate("pixels", 6, subsample=torch.arange(2), dim=-2):
                    pyro.sample("z", normal(leaves[2] * u + 0.2 * y, 0.9))

        gradients = []
        for elbo in (VIMCO(2, 2), DReG(VIMCO(2, 2))):
            pyro.set_rng_seed(0)
            loss = elbo.differentiable_loss(model, guide, y)
            gradients.append(torch.stack(torch.autograd.grad(-loss / 2.5, leaves)))
        difference = gradients[0] - gradients[1]
        error = difference.std(1) / math.sqrt(data * replicas)
        assert (difference.mean(1).abs() < 4 * error).all()
        assert (error > 0).all()
        assert (gradients[0].mean(1).abs() > 10 * error).all()

    @pytest.mark.parametrize("num_particles", [1, 2])
    def test_autoguide_whose_sites_are_point_masses_with_a_density(self, num_particles):
        """AutoDiagonalNormal draws one auxiliary site; z is then a Delta whose log-density is the Jacobian's."""

        def model():
            z = pyro.sample("z", dist.Gamma(torch.tensor(2.0, dtype=F64), torch.tensor(1.5, dtype=F64)))
            pyro.sample("x", normal(z, 1.0), obs=torch.tensor(2.5, dtype=F64))

        torch.set_default_dtype(F64)
        guide = AutoDiagonalNormal(model, init_scale=0.3)
        guide()
        estimator = IWAEWithoutScore(num_particles, max_plate_nesting=0)
        nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(18))
        total: list = [0.0, 0.0]
        for chosen in itertools.product(range(18), repeat=num_particles):
            index = torch.tensor(chosen)
            weight = (weights[index] / weights.sum()).prod()
            if weight < 1e-9:
                continue
            for i, elbo in enumerate((estimator, DReG(estimator))):
                with Forced({}, {"_AutoDiagonalNormal_latent": nodes[index].unsqueeze(-1)}):
                    loss = elbo.differentiable_loss(model, guide)
                total[i] = total[i] + weight * torch.stack(torch.autograd.grad(loss, list(guide.parameters())))
        assert (total[0].abs() > 0.01).all()
        torch.testing.assert_close(total[1], total[0], rtol=0, atol=1e-5)

    def test_point_masses_get_the_plain_gradient(self):
        def model():
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.2))

        guide = AutoDelta(model)
        guide()
        gradients = [
            torch.autograd.grad(e.differentiable_loss(model, guide), list(guide.parameters()))
            for e in (IWAEWithoutScore(3), DReG(IWAEWithoutScore(3)))
        ]
        assert gradients[0] == gradients[1]
        assert gradients[0][0] != 0

    def test_draw_that_particles_share(self):
        """u is drawn once and z for each particle: z is converted and u is not."""
        replicas = 20_000
        leaves = [torch.full((replicas,), v, dtype=F64, requires_grad=True) for v in (1.2, 0.2, 0.1)]
        x = torch.full((replicas,), 0.8, dtype=F64)

        def draw_u(law):
            with block_plate(dim=-2, strict=False):
                return pyro.sample("u", law)

        def model(x):
            with pyro.plate("data", len(x)):
                u = draw_u(normal(torch.zeros(len(x), dtype=F64), 1.0))
                z = pyro.sample("z", normal(u, 1.0))
                pyro.sample("x", normal(z, 0.8), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                u = draw_u(normal(leaves[0], 0.5))
                pyro.sample("z", normal(leaves[1] * u + leaves[2] * x, 0.9))

        gradients = []
        for elbo in (VIMCO(3, max_plate_nesting=1), DReG(VIMCO(3, max_plate_nesting=1))):
            pyro.set_rng_seed(0)
            loss = elbo.differentiable_loss(model, guide, x)
            gradients.append(torch.stack(torch.autograd.grad(-loss, leaves)))
        difference = gradients[0] - gradients[1]
        error = difference.std(1) / math.sqrt(replicas)
        assert (difference.mean(1).abs() <= 4 * error).all()
        assert (error > 0).tolist() == [False, True, True]
        assert (gradients[0].mean(1).abs() > 10 * error).all()

    def test_guide_messenger(self):
        """A guide that runs while the model does."""

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        x = torch.full((20_000,), 0.9)
        guide = AutoNormalMessenger(model, amortized_plates=("data",))
        elbo = VIMCO(3, max_plate_nesting=1)
        elbo.loss(model, guide, x)
        gradients = []
        for estimator in (elbo, DReG(elbo)):
            loss = estimator.differentiable_loss(model, guide, x)
            gradients.append(torch.stack(torch.autograd.grad(loss, list(guide.parameters()))) / len(x))
        # Over the data, the standard deviation of either gradient is below 2.
        assert (gradients[0] - gradients[1]).abs().max() < 4 * 2 * math.sqrt(2 / len(x))
        assert (gradients[0].abs() > 0.05).any()

    def test_guide_without_parameters(self):
        theta = torch.tensor(0.5, requires_grad=True)

        def model():
            z = pyro.sample("z", dist.Normal(theta, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.2))

        def guide():
            pyro.sample("z", dist.Normal(0.4, 1.0))

        gradients = []
        for elbo in (VIMCO(3), DReG(VIMCO(3))):
            elbo.loss(model, guide)
            pyro.set_rng_seed(0)
            gradients.append(torch.autograd.grad(elbo.differentiable_loss(model, guide), theta))
        assert gradients[0] == gradients[1]


class TestInterface:
    def test_loss_surrogate_and_svi(self):
        def guide(x):
            a = pyro.param("a", torch.tensor(0.3, dtype=F64))
            s = pyro.param("s", torch.tensor(-0.1, dtype=F64))
            return linear_gaussian(a, s)[1](x)

        model = linear_gaussian(torch.ones(()), torch.ones(()))[0]
        x = torch.randn(40, dtype=F64)
        elbo = DReG(VIMCO(5))
        elbo.loss(model, guide, x)
        values = []
        for method in (elbo.loss, elbo.loss_and_grads, VIMCO(5, 1).loss):
            pyro.set_rng_seed(0)
            values.append(float(method(model, guide, x)))
        pyro.set_rng_seed(0)
        values.append(elbo.differentiable_loss(model, guide, x).item())
        pyro.set_rng_seed(0)
        values.append(-elbo.surrogate(model, guide, x).sum().item())
        assert values == pytest.approx([values[0]] * 5, rel=1e-12)
        with torch.no_grad():
            assert not elbo.differentiable_loss(model, guide, x).requires_grad
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), elbo)
        for _ in range(100):
            svi.step(x)
        # Without variance at the optimum, it is reached, not circled.
        assert pyro.param("a").item() == pytest.approx(0.5, abs=5e-3)
        assert pyro.param("s").item() == pytest.approx(-0.5 * math.log(2), abs=5e-3)

    def test_order_is_the_estimators(self):
        vimco = VIMCO(5, alpha=0.9)
        elbo = DReG(vimco)
        assert elbo.alpha == 0.9
        elbo.alpha = 0.5
        assert vimco.alpha == 0.5
        log_weight = torch.randn(5, 3)
        assert torch.equal(elbo.signal(log_weight), vimco.signal(log_weight))
        assert torch.equal(elbo.score_signal(log_weight), vimco.score_signal(log_weight))
        assert torch.equal(elbo.bound(log_weight), vimco.bound(log_weight))

    @pytest.mark.parametrize("estimator", [DReG(VIMCO(2)), RWS(2), Trace_ELBO()], ids=["itself", "RWS", "Pyro's"])
    def test_what_it_cannot_wrap(self, estimator):
        with pytest.raises(ValueError, match=f"expected an estimator .* got {type(estimator).__name__}"):
            DReG(estimator)

    def test_no_host_reads_on_the_hot_path(self):
        outcomes = Outcomes(2, ["d1", "d2"], ["z1", "z2"], nodes=2)
        leaves = parameters()
        pair = mixed_pair("late mask", *leaves)
        with pyro.validation_enabled(False), NoHostReads(), outcomes.forced:
            DReG(VIMCO(2, 1)).differentiable_loss(*pair, outcomes.x).backward()
        assert all((leaf.grad != 0).any() for leaf in leaves)


class NoHostReads(TorchDispatchMode):
    """Raises where a tensor's value is read by Python, which on a GPU would wait for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            raise AssertionError("a tensor was read")
        return func(*args, **(kwargs or {}))


class TestSQAIR:
    """Late masks, presence that looks at what was drawn, and an encoder that model and guide share."""

    @staticmethod
    def programs() -> tuple[SQAIR, SQAIRGuide]:
        scene = SceneConfig(num_slots=2, what_dim=2, image_size=(8, 8), glimpse_size=(4, 4))
        encoder = SetEncoder(2, 4)
        model, guide = SQAIR.build(scene, 4, encoder).double(), SQAIRGuide.build(scene, 4, encoder).double()
        nn.init.constant_(guide.propagation.pres[-1].bias, 1.0)
        for parameter in {*model.parameters(), *guide.parameters()}:
            with torch.no_grad():  # no weight is zero, which would hide what is behind it
                parameter += 0.05 * torch.randn_like(parameter)
        return model, guide

    def test_every_parameter_gets_a_finite_gradient(self):
        model, guide = self.programs()
        DReG(OVIS(3))(model, guide)(torch.rand(3, 20, 1, 8, 8, dtype=F64)).backward()
        for name, parameter in (*model.named_parameters(), *guide.named_parameters()):
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert (parameter.grad != 0).any(), name

    def test_mean_agrees_with_vimco(self):
        model, guide = self.programs()
        frames = torch.rand(2, 1, 1, 8, 8, dtype=F64).expand(-1, 200, -1, -1, -1)
        chosen = {
            "discovery.where.4.bias": guide.discovery.where[-1].bias,
            "discovery.pres.2.bias": guide.discovery.pres[-1].bias,
            "propagation.pres.2.bias": guide.propagation.pres[-1].bias,
            "propagation.scale_bias": guide.propagation.scale_bias,
            "shared encoder": guide.discovery.encoder.mlp[-2].bias,
            "decoder": model.renderer.decoder[-1].bias,
        }
        runs = 12
        gradients = {}
        for elbo in (VIMCO(3, 1), DReG(VIMCO(3, 1))):
            draws = [
                torch.cat([g.reshape(-1) for g in torch.autograd.grad(elbo(model, guide)(frames), chosen.values())])
                for _ in range(runs)
            ]
            gradients[type(elbo).__name__] = torch.stack(draws)
        plain, doubly = gradients["VIMCO"], gradients["DReG"]
        # Many parameters and few runs: a variance pooled over both estimators, and 5 standard errors of 2 x 12 runs.
        error = ((plain.var(0) + doubly.var(0)) / runs).sqrt()
        z = (plain.mean(0) - doubly.mean(0)) / error
        assert z.abs().max() < 5
        assert z.square().mean() < 2
        assert (plain.mean(0).abs() > 4 * error).sum() >= 10
