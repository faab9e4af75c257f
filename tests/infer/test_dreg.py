# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The expected gradient of DReG is that of the bound, by enumeration of discrete draws and quadrature of noise."""

import math

import enumeration
import pyro
import pytest
import torch
from dreg_outcomes import (
    F64,
    KINDS,
    QUADRATURE,
    Outcomes,
    X,
    by_replica,
    continuous_pair,
    linear_gaussian,
    mixed,
    mixed_pair,
    parameters,
    replicated,
)
from enumerated_pairs import PAIRS
from enumeration import Forced
from no_host_reads import NoHostReads
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from pyro_sqair.experiments import SQAIRSystem
from pyro_sqair.infer import OVIS, RWS, VIMCO, DReG, IWAEWithoutScore, ReleasedSQAIRSignal, gates
from pyro_sqair.infer.multi_sample import MultiSampleELBO
from pyro_sqair.scene.objects import SceneConfig


class TestExpectation:
    @pytest.mark.parametrize("vectorize", [True, False], ids=["vectorised", "one at a time"])
    @pytest.mark.parametrize("kind", KINDS)
    def test_mixed_draws(self, kind, vectorize):
        pair, outcomes = mixed(kind)
        vimco = VIMCO(2, max_plate_nesting=1, vectorize_particles=vectorize)
        exact = outcomes.exact(pair)
        # The discrete draws are enumerated, so this holds at each node of the quadrature.
        torch.testing.assert_close(outcomes.estimated(pair, vimco), exact, rtol=0, atol=1e-10)
        got, exact = outcomes.mean(outcomes.estimated(pair, DReG(vimco))), outcomes.mean(exact)
        assert (exact.abs() > 1e-3).sum() >= len(exact) - 4  # nearly every parameter is tested
        torch.testing.assert_close(got, exact, rtol=0, atol=QUADRATURE)

    def test_error_falls_with_the_number_of_nodes(self):
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
    def test_equals_that_of_any_wrapped_estimator(self, kind, estimator):
        """Including its bias."""
        pair, outcomes = mixed(kind)
        plain = outcomes.mean(outcomes.estimated(pair, estimator))
        got = outcomes.mean(outcomes.estimated(pair, DReG(estimator)))
        torch.testing.assert_close(got, plain, rtol=0, atol=QUADRATURE)

    @pytest.mark.parametrize("kind", ["plain", "late mask", "scale"])
    @pytest.mark.parametrize("num_particles", [3, 5])
    def test_more_particles(self, num_particles, kind):
        """By Monte Carlo with the same draws: the difference from the gradient of VIMCO has mean zero."""
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
    def test_quadrature_detects_errors(self, what, monkeypatch):
        """Without masks; without the dependence of discrete draws on continuous ones; v instead of v^2."""
        if what == "masks":
            monkeypatch.setattr(gates.Draw, "share", lambda self, scale: 1.0)
        elif what == "scores":
            correction = DReG._correction
            monkeypatch.setattr(DReG, "_correction", lambda self, p: correction(self, p._replace(score=None)))
        else:
            monkeypatch.setattr(DReG, "_correction", lambda self, p: p.log_weight.sum() * 0)
        pair, outcomes = mixed("late mask")
        got = outcomes.mean(outcomes.estimated(pair, DReG(VIMCO(2, 1))))
        assert (got - outcomes.mean(outcomes.exact(pair))).abs().max() > 1000 * QUADRATURE


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

    def test_one_particle_equals_roeder_et_al(self):
        """Roeder et al. (2017): d/dz [log p(x, z) - log q(z)] dz/d(phi), with log q at fixed phi."""
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
        """Each replica of one datum has its own parameters, so one run gives all gradients: [2, replicas]."""
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
        # The ratio falls with K for the plain gradient (Rainforth et al. 2018), not for DReG (Tucker et al. 2019).
        assert (snr[50][0] < 0.6 * snr[5][0]).all()
        assert (snr[50][1] > 1.5 * snr[5][1]).all()


class TestInterface:
    def test_value_is_the_bound(self):
        a, s = torch.tensor([0.3, -0.1], dtype=F64, requires_grad=True)
        pair, x, values = linear_gaussian(a, s), torch.randn(40, dtype=F64), []
        elbo = DReG(VIMCO(5, 1))
        losses = (
            elbo.loss,
            lambda *args: elbo.loss_and_grads(*args).item(),
            lambda *args: -elbo.surrogate(*args).sum().item(),
            VIMCO(5, 1).loss,
        )
        for loss in losses:
            pyro.set_rng_seed(0)
            values.append(loss(*pair, x))
        assert values == pytest.approx([values[0]] * 4, rel=1e-12)
        with torch.no_grad():
            assert not elbo.differentiable_loss(*pair, x).requires_grad

    @pytest.mark.parametrize("estimator", [VIMCO(2), OVIS(2, gamma=0.5), IWAEWithoutScore(2), VIMCO(2, alpha=0.4)])
    def test_without_reparameterised_draws_it_is_the_wrapped_estimator(self, estimator):
        outcomes = enumeration.Outcomes(PAIRS["chain"], 2)
        wrapped, doubly = (outcomes.estimated_gradient(e.surrogate) for e in (estimator, DReG(estimator)))
        assert torch.equal(wrapped, doubly)

    def test_order_and_signal_are_those_of_the_wrapped_estimator(self):
        vimco, log_weight = VIMCO(5, alpha=0.9), torch.randn(5, 3)
        elbo = DReG(vimco)
        assert elbo.alpha == 0.9
        elbo.alpha = 0.5
        assert vimco.alpha == 0.5
        assert torch.equal(elbo.signal(log_weight), vimco.signal(log_weight))

    @pytest.mark.parametrize("estimator", [DReG(VIMCO(2)), RWS(2), Trace_ELBO()], ids=["itself", "RWS", "Pyro's"])
    def test_estimators_that_cannot_be_wrapped(self, estimator):
        with pytest.raises(ValueError, match=f"expected an estimator .* got {type(estimator).__name__}"):
            DReG(estimator)

    def test_no_host_reads_on_the_hot_path(self):
        outcomes = Outcomes(2, ["d1", "d2"], ["z1", "z2"], nodes=2)
        leaves = parameters()
        pair = mixed_pair("late mask", *leaves)
        with pyro.validation_enabled(False), NoHostReads(), outcomes.forced:
            DReG(VIMCO(2, 1)).differentiable_loss(*pair, outcomes.x).backward()
        assert all((leaf.grad != 0).any() for leaf in leaves)


def test_every_parameter_of_sqair_gets_a_finite_gradient():
    """Late masks, presence that depends on earlier draws, and an encoder shared by model and guide."""
    scene = SceneConfig(num_slots=2, what_dim=2, image_size=(8, 8), glimpse_size=(4, 4))
    model, guide = (program.double() for program in SQAIRSystem(4).programs(scene))
    nn.init.constant_(guide.propagation.pres[-1].bias, 1.0)
    for parameter in dict.fromkeys((*model.parameters(), *guide.parameters())):
        with torch.no_grad():  # a zero weight would block gradients
            parameter += 0.05 * torch.randn_like(parameter)
    DReG(OVIS(3))(model, guide)(torch.rand(3, 20, 1, 8, 8, dtype=F64)).backward()
    for name, parameter in (*model.named_parameters(), *guide.named_parameters()):
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name
