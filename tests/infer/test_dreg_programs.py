# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""DReG as a Pyro `ELBO`, and with SQAIR."""

import math

import pyro
import pytest
import torch
from dreg_outcomes import F64, Outcomes, linear_gaussian, mixed_pair, parameters
from no_host_reads import NoHostReads
from pyro.infer import SVI, Trace_ELBO
from torch import nn

from pyro_sqair.experiments import SQAIRSystem
from pyro_sqair.guides import SQAIRGuide
from pyro_sqair.infer import OVIS, RWS, VIMCO, DReG
from pyro_sqair.models import SQAIR
from pyro_sqair.scene.objects import SceneConfig


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
        # The gradient has no variance at the optimum, so the parameters converge to it.
        assert pyro.param("a").item() == pytest.approx(0.5, abs=5e-3)
        assert pyro.param("s").item() == pytest.approx(-0.5 * math.log(2), abs=5e-3)

    def test_order_is_that_of_the_wrapped_estimator(self):
        vimco = VIMCO(5, alpha=0.9)
        elbo = DReG(vimco)
        assert elbo.alpha == 0.9
        elbo.alpha = 0.5
        assert vimco.alpha == 0.5

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


class TestSQAIR:
    """Late masks, presence that depends on earlier draws, and an encoder shared by model and guide."""

    @staticmethod
    def programs() -> tuple[SQAIR, SQAIRGuide]:
        scene = SceneConfig(num_slots=2, what_dim=2, image_size=(8, 8), glimpse_size=(4, 4))
        model, guide = (program.double() for program in SQAIRSystem(4).programs(scene))
        nn.init.constant_(guide.propagation.pres[-1].bias, 1.0)
        for parameter in dict.fromkeys((*model.parameters(), *guide.parameters())):
            with torch.no_grad():  # a zero weight would block gradients
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
        # Many parameters and few runs: 5 standard errors, with the variance of 2 x 12 runs of both estimators.
        error = ((plain.var(0) + doubly.var(0)) / runs).sqrt()
        z = (plain.mean(0) - doubly.mean(0)) / error
        assert z.abs().max() < 5
        assert z.square().mean() < 2
        assert (plain.mean(0).abs() > 4 * error).sum() >= 10
