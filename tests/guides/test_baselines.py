# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""SQAIR with NVIL: the expected gradient, by enumeration of presence at fixed noise, and neural baselines.

Presence masks `where` and `what`, and `Objects` carries it from frame to frame. If Pyro's provenance tracking lost a
dependency, a cost would be missing from a signal, and the expectation would be wrong.
"""

import itertools

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_sqair.experiments import SQAIRSystem
from pyro_sqair.guides import SQAIRGuide
from pyro_sqair.infer import NVIL, VIMCO, NeuralBaseline
from pyro_sqair.infer.log_weights import log_weights
from pyro_sqair.models import SQAIR
from pyro_sqair.scene.objects import SceneConfig

F64 = torch.float64
H, D = 4, 2


def programs(num_slots: int, *, baselines: bool) -> tuple[SQAIR, SQAIRGuide]:
    scene = SceneConfig(num_slots=num_slots, what_dim=D, image_size=(6, 6), glimpse_size=(3, 3))
    model, guide = SQAIRSystem(H).programs(scene)
    if baselines:
        guide.discovery.baseline = NeuralBaseline(H + D, [8], scale=10.0)
        guide.propagation.baseline = NeuralBaseline(2 * H + D, [8], scale=10.0)
    model, guide = model.double(), guide.double()
    nn.init.constant_(guide.propagation.pres[-1].bias, 0.5)
    nn.init.constant_(guide.discovery.pres[-1].bias, 0.2)
    for parameter in dict.fromkeys((*model.parameters(), *guide.parameters())):
        with torch.no_grad():
            parameter += 0.1 * torch.randn_like(parameter)
    return model, guide


class Forced(Messenger):
    """Sets presence to given bits in open slots, and other draws by noise that is the same for each sequence.

    Attributes:
        closed: number of ignored bits of each sequence, shape [B]; 2 ** closed patterns have the same outcome.
    """

    def __init__(self, bits: dict[str, Tensor]) -> None:
        super().__init__()
        self.bits = bits
        self.closed = torch.zeros(len(next(iter(bits.values()))), dtype=F64)

    def _pyro_sample(self, msg) -> None:
        if msg["done"] or msg["is_observed"] or not hasattr(msg["fn"], "sample"):
            return
        name, fn = msg["name"], msg["fn"]
        if name in self.bits:
            # A sample carries the provenance that Pyro tracks: the names of the draws that this one depends on.
            msg["value"], msg["done"] = self.bits[name] * fn.open + 0 * fn.sample(), True
            self.closed = self.closed + (~fn.open).double()
        elif "/wh" in name:
            normal = fn.base
            while not hasattr(normal, "loc"):
                normal = normal.base_dist
            seed = int.from_bytes(name.encode(), "little") % 2**31
            noise = torch.randn(normal.loc.shape[-1], dtype=F64, generator=torch.Generator().manual_seed(seed))
            if hasattr(normal, "factor"):
                noise = noise @ normal.factor.mT
            msg["value"], msg["done"] = normal.loc + normal.scale * noise, True


def presence_sites(num_slots: int, length: int) -> list[str]:
    phases = [(t, phase) for t in range(length) for phase in ("prop", "disc") if t > 0 or phase == "disc"]
    return [f"frame_{t}/{phase}_{i}/pres" for t, phase in phases for i in range(num_slots)]


class Outcomes:
    """Every pattern of presence in a video of T frames, one for each sequence of the batch."""

    def __init__(self, num_slots: int, length: int) -> None:
        sites = presence_sites(num_slots, length)
        patterns = torch.tensor(list(itertools.product((0.0, 1.0), repeat=len(sites))), dtype=F64)
        self.bits = dict(zip(sites, patterns.T, strict=True))
        frame = torch.rand(length, 1, 1, 6, 6, dtype=F64)
        self.frames = frame.expand(-1, len(patterns), -1, -1, -1)

    def exact_gradient(self, model: SQAIR, guide: SQAIRGuide, chosen: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The gradient of the ELBO at fixed noise, without an estimator, and the weight of each pattern."""
        with Forced(self.bits) as forced:
            out = log_weights(model, guide, (self.frames,), num_particles=1, max_plate_nesting=1)
        prob = out.score[0].exp() / 2 ** forced.closed.reshape(-1)
        torch.testing.assert_close(prob.sum(), torch.tensor(1.0, dtype=F64))
        grads = torch.autograd.grad((prob * out.log_weight[0]).sum(), chosen, materialize_grads=True)
        return torch.cat([grad.reshape(-1) for grad in grads]), prob.detach()


def without_baselines(model: SQAIR, guide: SQAIRGuide) -> list[Tensor]:
    parameters = dict([*model.named_parameters(), *guide.named_parameters()])
    return [p for name, p in parameters.items() if "baseline" not in name]


@pytest.mark.parametrize(("num_slots", "length"), [(1, 3), (2, 2)])
def test_expected_gradient_is_exact(num_slots, length):
    """One run of all patterns, with costs scaled by their probabilities."""
    model, guide = programs(num_slots, baselines=False)
    outcomes = Outcomes(num_slots, length)
    parameters = without_baselines(model, guide)
    exact, prob = outcomes.exact_gradient(model, guide, parameters)
    with Forced(outcomes.bits):
        pair = (poutine.scale(program, scale=prob) for program in (model, guide))
        loss = NVIL(max_plate_nesting=1).differentiable_loss(*pair, outcomes.frames)
    got = -torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters, materialize_grads=True)])
    assert (exact.abs() > 1e-4).double().mean() > 0.5
    torch.testing.assert_close(got, exact, rtol=0, atol=1e-9)


def test_expected_gradient_with_baselines_is_exact():
    """One run for each pattern. The baselines get gradients, and change no other parameter's gradient."""
    model, guide = programs(1, baselines=True)
    outcomes = Outcomes(1, 2)
    parameters = without_baselines(model, guide)
    networks = [*guide.discovery.baseline.parameters(), *guide.propagation.baseline.parameters()]
    exact, prob = outcomes.exact_gradient(model, guide, parameters)
    total, learned = torch.zeros_like(exact), [torch.zeros_like(p) for p in networks]
    for i in range(len(prob)):
        with Forced({name: bits[i : i + 1] for name, bits in outcomes.bits.items()}):
            loss = NVIL(max_plate_nesting=1).differentiable_loss(model, guide, outcomes.frames[:, i : i + 1])
        grads = torch.autograd.grad(loss, parameters + networks, materialize_grads=True)
        total -= prob[i] * torch.cat([g.reshape(-1) for g in grads[: len(parameters)]])
        learned = [a + g.abs() for a, g in zip(learned, grads[len(parameters) :], strict=True)]
    torch.testing.assert_close(total, exact, rtol=0, atol=1e-9)
    assert all((gradient > 0).any() for gradient in learned)


def test_training_with_baselines():
    """SVI with several particles finds and changes every parameter."""
    model, guide = programs(2, baselines=True)
    frames = torch.rand(3, 8, 1, 6, 6, dtype=F64)  # three, since memory is zero in the first two
    before = {name: p.clone() for name, p in guide.named_parameters()}
    elbo = NVIL(2, max_plate_nesting=1)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), elbo)
    losses = [svi.step(frames) for _ in range(2)]
    assert all(isinstance(loss, float) for loss in losses)
    changed = [name for name, p in guide.named_parameters() if (p != before[name]).any()]
    assert set(before) == set(changed)


def test_other_estimators_ignore_baselines():
    model, guide = programs(2, baselines=True)
    loss = VIMCO(3)(model, guide)(torch.rand(2, 4, 1, 6, 6, dtype=F64))
    loss.backward()
    assert all(p.grad is None for p in guide.discovery.baseline.parameters())
    assert guide.discovery.pres[-1].bias.grad is not None


def test_none_by_default():
    _, guide = programs(2, baselines=False)
    assert not [name for name, _ in guide.named_parameters() if "baseline" in name]
    trace = poutine.trace(guide).get_trace(torch.rand(2, 4, 1, 6, 6, dtype=F64))
    assert not [name for name, site in trace.nodes.items() if "baseline" in site.get("infer", {})]
