# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Estimators with Pyro's SVI and with a PyTorch optimiser: which of them train a discrete guide."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, RenyiELBO
from torch import Tensor

from pyro_sqair.infer import NVIL, OVIS, RWS, VIMCO, DReG, IWAEWithoutScore, ReleasedSQAIRSignal, RenyiWarmup

LEARNERS = {
    "VIMCO": lambda: VIMCO(5),
    "OVIS": lambda: OVIS(5, gamma=1.0),
    "wake-wake": lambda: RWS(5),
    "wake-sleep": lambda: RWS(5, insomnia=0.5, dream=lambda trace, x: (trace.nodes["x"]["value"],)),
    "warm-up": lambda: RenyiWarmup(VIMCO(5), 50),
    "DReG": lambda: DReG(VIMCO(5)),
    "NVIL": lambda: NVIL(5),
}
learner = pytest.mark.parametrize("make", LEARNERS.values(), ids=LEARNERS)


def coin_model(x):
    p = pyro.param("p", torch.tensor(0.5), constraint=dist.constraints.unit_interval)
    with pyro.plate("data", len(x)):
        b = pyro.sample("b", dist.Bernoulli(p))
        pyro.sample("x", dist.Normal(4 * b - 2, 1.0), obs=x)


def coin_guide(x):
    slope = pyro.param("slope", torch.tensor(0.0))
    shift = pyro.param("shift", torch.tensor(0.0))
    with pyro.plate("data", len(x)):
        pyro.sample("b", dist.Bernoulli(logits=slope * x + shift))


def coins(count: int = 200) -> tuple[Tensor, Tensor]:
    bits = (torch.arange(count) % 4 == 0).float()  # a quarter are 1
    return bits, 4 * bits - 2 + torch.randn(count, generator=torch.Generator().manual_seed(3))


def coin_evidence(x: Tensor, p: Tensor) -> float:
    """log p(x) of all data, summed over b."""
    heads = p.log() + dist.Normal(2.0, 1.0).log_prob(x)
    tails = (1 - p).log() + dist.Normal(-2.0, 1.0).log_prob(x)
    return torch.logaddexp(heads, tails).sum().item()


@learner
def test_svi_learns_a_discrete_guide(make):
    bits, x = coins()
    svi = SVI(coin_model, coin_guide, pyro.optim.Adam({"lr": 0.1}), make())
    losses = [svi.step(x) for _ in range(120)]
    assert isinstance(losses[0], float)
    evidence = coin_evidence(x, pyro.param("p").detach())
    assert sum(losses[:3]) / 3 > 30 - evidence
    assert -2 < sum(losses[-10:]) / 10 + evidence < 10  # the bound's gap, for 200 data
    # The posterior log-odds are 4 x + logit(p). The maximum-likelihood p is near the fraction of ones.
    assert abs(pyro.param("p").item() - 0.25) < 0.08
    guessed = pyro.param("slope") * x + pyro.param("shift") > 0
    assert (guessed == bits.bool()).float().mean() > 0.95


@pytest.mark.parametrize(
    ("elbo", "learns"),
    [
        (RenyiELBO(alpha=0, num_particles=5, vectorize_particles=True), False),
        (IWAEWithoutScore(5), False),
        (ReleasedSQAIRSignal(5), True),  # a biased one
        (VIMCO(5), True),
    ],
    ids=["Pyro's IWAE", "no score", "released", "VIMCO"],
)
def test_which_estimators_give_a_discrete_guide_a_gradient(elbo, learns):
    """Pyro's issue 3289. The model gets a gradient from all of them."""
    _, x = coins()
    elbo.loss_and_grads(coin_model, coin_guide, x)
    assert pyro.param("p").unconstrained().grad.abs() > 1
    grad = pyro.param("slope").grad
    assert (grad is not None and grad.abs().item() > 1) == learns


@learner
def test_module_learns_with_a_torch_optimiser(make):
    class Coin(pyro.nn.PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.logit = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x):
            with pyro.plate("data", len(x)):
                b = pyro.sample("b", dist.Bernoulli(logits=self.logit))
                pyro.sample("x", dist.Normal(4 * b - 2, 1.0), obs=x)

    class Guess(pyro.nn.PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(1, 1)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("b", dist.Bernoulli(logits=self.linear(x[:, None])[:, 0]))

    _, x = coins()
    model = Coin()
    elbo = make()(model, Guess())
    assert {name for name, _ in elbo.named_parameters()} == {
        "model.logit",
        "guide.linear.weight",
        "guide.linear.bias",
    }
    optimiser = torch.optim.Adam(elbo.parameters(), lr=0.1)
    losses = []
    for _ in range(100):
        optimiser.zero_grad()
        loss = elbo(x)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    evidence = coin_evidence(x, model.logit.sigmoid().detach())
    assert sum(losses[:3]) / 3 > 30 - evidence
    assert -2 < sum(losses[-10:]) / 10 + evidence < 10


@learner
def test_loss_needs_no_gradients_and_agrees(make):
    _, x = coins()
    elbo = make()
    elbo.loss(coin_model, coin_guide, x)  # finds the plates and creates the parameters
    pyro.set_rng_seed(0)
    number = elbo.loss(coin_model, coin_guide, x)
    pyro.set_rng_seed(0)
    tensor = elbo.loss_and_grads(coin_model, coin_guide, x)
    assert isinstance(number, float)
    assert not getattr(tensor, "requires_grad", False)  # NVIL returns a number, as Pyro does
    assert number == pytest.approx(float(tensor), rel=1e-6)
    assert SVI(coin_model, coin_guide, pyro.optim.Adam({}), elbo).evaluate_loss(x) > 0
