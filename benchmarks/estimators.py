# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Signal-to-noise ratio, bias and cost of the guide's gradient with each estimator, as tables in markdown.

    python benchmarks/estimators.py > table.md
    python benchmarks/estimators.py --particles 5 50 --replicas 20000

There are two small models: one of binary latents, one of binary and continuous latents that depend on each other. Every
replica of the datum has its own guide parameters, so one run gives one independent gradient per replica. The tables
show

- the signal-to-noise ratio |mean| / standard deviation of a single gradient (Rainforth et al. 2018, Eq. 6), averaged
  over parameters;
- the bias: the distance of the mean from the exact gradient of the bound, by enumeration, in standard errors of the
  mean, maximum over parameters; values below about 3 may be due to chance. The exact gradient of the mixed model is
  unknown: the reference is the mean gradient of VIMCO, whose error is added;
- the time of a step relative to VIMCO with the same K. With models this small, most of it is Python overhead.

The bound of NVIL is the ELBO for every K. The guide's gradient with RWS is not that of a bound.
"""

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

import pyro
import pyro.distributions as dist
import torch
import tyro
from pyro.infer import ELBO
from torch import Tensor

from pyro_sqair.infer import NVIL, OVIS, RWS, VIMCO, DReG, IWAEWithoutScore, NeuralBaseline, ReleasedSQAIRSignal

ESTIMATORS: dict[str, Callable[[int], ELBO]] = {
    "VIMCO": lambda k: VIMCO(k, 1),
    "VIMCO, arithmetic": lambda k: VIMCO(k, 1, "arithmetic"),
    "OVIS, gamma 0": lambda k: OVIS(k, 1, gamma=0.0),
    "OVIS, gamma 1": lambda k: OVIS(k, 1, gamma=1.0),
    "released SQAIR signal": lambda k: ReleasedSQAIRSignal(k, 1),
    "IWAE without score": lambda k: IWAEWithoutScore(k, 1),
    "RWS, wake-phi": lambda k: RWS(k, 1),
    "NVIL, baseline": lambda k: NVIL(k, 1),
    "DReG(VIMCO)": lambda k: DReG(VIMCO(k, 1)),
    "DReG(OVIS, gamma 0)": lambda k: DReG(OVIS(k, 1, gamma=0.0)),
    "DReG(OVIS, gamma 1)": lambda k: DReG(OVIS(k, 1, gamma=1.0)),
}
X = 0.8
"""The datum."""


@dataclass
class Arguments:
    """Command line."""

    particles: tuple[int, ...] = (2, 5, 10, 20, 50)
    replicas: int = 4000
    """number of independent gradients"""
    repeats: int = 5
    """number of timed runs, of which the median is printed"""
    threads: int = 1
    seed: int = 0


class Discrete:
    """b -> c -> x, all binary but x."""

    name = "discrete"
    initial = (0.4, -0.3, 0.5, 0.2)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.3)))
            c = pyro.sample("c", dist.Bernoulli(logits=1.5 * b - 0.5))
            pyro.sample("x", dist.Normal(2 * b - c, 1.0), obs=x)

    def guide(self, phi: list[Tensor], baseline: NeuralBaseline | None = None) -> Callable[[Tensor], None]:
        def guide(x: Tensor) -> None:
            infer = baseline_of(x, baseline)
            with pyro.plate("data", len(x)):
                b = pyro.sample("b", dist.Bernoulli(logits=phi[0] * x + phi[1]), infer=infer)
                pyro.sample("c", dist.Bernoulli(logits=phi[2] * b + phi[3]), infer=infer)

        return guide


class Mixed:
    """z1 -> d1 -> z2 -> d2 -> x: normal, binary, normal, binary; each depends on all previous ones."""

    name = "mixed"
    initial = (0.6, -0.3, 0.9, 0.2, 0.5, 0.3, -0.2, 0.4, -0.3)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(0.0, 1.0))
            d1 = pyro.sample("d1", dist.Bernoulli(logits=z1))
            z2 = pyro.sample("z2", dist.Normal(0.7 * z1 - d1, 1.0))
            d2 = pyro.sample("d2", dist.Bernoulli(logits=0.5 * z2))
            pyro.sample("x", dist.Normal(z1 + 0.7 * z2 * d2 + d1, 0.5), obs=x)

    def guide(self, phi: list[Tensor], baseline: NeuralBaseline | None = None) -> Callable[[Tensor], None]:
        def guide(x: Tensor) -> None:
            infer = baseline_of(x, baseline)
            with pyro.plate("data", len(x)):
                z1 = pyro.sample("z1", dist.Normal(phi[0] * x, phi[1].exp()))
                d1 = pyro.sample("d1", dist.Bernoulli(logits=phi[2] * z1 + phi[3]), infer=infer)
                z2 = pyro.sample("z2", dist.Normal(phi[4] * z1 + phi[5] * d1, phi[6].exp()))
                pyro.sample("d2", dist.Bernoulli(logits=phi[7] * z2 + phi[8] * d1), infer=infer)

        return guide


def baseline_of(x: Tensor, network: NeuralBaseline | None) -> dict:
    """The `infer` argument of `pyro.sample`: a baseline that depends on the datum, or nothing."""
    return {"baseline": {"nn_baseline": network, "nn_baseline_input": x[:, None]}} if network else {}


def parameters(pair: Discrete | Mixed, replicas: int) -> list[Tensor]:
    return [torch.full((replicas,), value, requires_grad=True) for value in pair.initial]


def gradients(pair: Discrete | Mixed, elbo: ELBO, replicas: int, baseline: NeuralBaseline) -> Tensor:
    """Gradients of the bound with respect to the guide's parameters: [parameters, replicas]."""
    phi = parameters(pair, replicas)
    guide = pair.guide(phi, baseline if isinstance(elbo, NVIL) else None)
    loss = elbo.differentiable_loss(pair.model, guide, torch.full((replicas,), X))
    return -torch.stack(torch.autograd.grad(loss, phi, materialize_grads=True))


def trained_baseline(pair: Discrete | Mixed) -> NeuralBaseline:
    """A baseline that depends on the datum, trained on the costs."""
    baseline = NeuralBaseline(1, [])
    optimiser = torch.optim.Adam(baseline.parameters(), 0.05)
    guide = pair.guide(parameters(pair, 500), baseline)
    for _ in range(200):
        optimiser.zero_grad()
        NVIL(1, 1).differentiable_loss(pair.model, guide, torch.full((500,), X)).backward()
        optimiser.step()
    return baseline


def exact_gradient(pair: Discrete, num_particles: int) -> Tensor:
    """The exact gradient of the bound of K particles: a sum over the numbers of particles with each outcome."""
    phi = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in pair.initial]
    outcomes = torch.tensor(list(itertools.product((0.0, 1.0), repeat=2)), dtype=torch.float64)
    posed = {name: outcomes[:, i] for i, name in enumerate("bc")}
    guide = pyro.poutine.condition(pair.guide(phi), data=posed)
    model = pyro.poutine.condition(pair.model, data=posed)
    x = torch.full((4,), X, dtype=torch.float64)
    log_p, log_q = (pyro.poutine.trace(program).get_trace(x) for program in (model, guide))
    for trace in (log_p, log_q):
        trace.compute_log_prob()
    log_q = log_q.nodes["b"]["log_prob"] + log_q.nodes["c"]["log_prob"]
    log_w = sum(log_p.nodes[name]["log_prob"] for name in "bcx") - log_q
    counts = torch.cartesian_prod(*[torch.arange(num_particles + 1, dtype=torch.float64)] * 3)
    counts = torch.cat([counts, num_particles - counts.sum(-1, keepdim=True)], -1)
    counts = counts[counts[:, -1] >= 0]
    ways = math.lgamma(num_particles + 1) - (counts + 1).lgamma().sum(-1)
    chance = (ways + counts @ log_q).exp()
    bound = (counts.log() + log_w).logsumexp(-1) - math.log(num_particles)
    return torch.stack(torch.autograd.grad((chance * bound).sum(), phi))


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Median CPU seconds of a call, without the first one."""
    taken = []
    for _ in range(repeats + 1):
        start = time.process_time()
        function()
        taken.append(time.process_time() - start)
    return median(taken[1:])


def distance(pair: Discrete | Mixed, name: str, num_particles: int, drawn: dict[str, Tensor]) -> str:
    """Distance of the mean gradient from its reference in standard errors, maximum over parameters."""
    if name.startswith("RWS"):
        return "–"
    mean, variance = drawn[name].mean(1), drawn[name].var(1)
    if isinstance(pair, Discrete):
        target = exact_gradient(pair, 1 if name.startswith("NVIL") else num_particles)
    elif name == "VIMCO" or name.startswith("NVIL"):
        return "–"
    else:
        target, variance = drawn["VIMCO"].mean(1), variance + drawn["VIMCO"].var(1)
    if not (drawn[name].var(1) > 0).any():
        return "no gradient"
    error = (variance / drawn[name].shape[1]).sqrt()
    return f"{((mean - target).abs() / error).max():.1f}"


def table(heading: str, particles: tuple[int, ...], rows: dict[str, list[str]]) -> None:
    print(f"\n{heading}\n")
    print("| | " + " | ".join(f"K = {k}" for k in particles) + " |")
    print("|---|" + "---:|" * len(particles))
    for name, cells in rows.items():
        print(f"| {name} | " + " | ".join(cells) + " |")


def main(args: Arguments) -> None:
    """Measures both models and prints the tables."""
    torch.set_num_threads(args.threads)
    pyro.set_rng_seed(args.seed)
    with pyro.validation_enabled(False):
        for pair in (Discrete(), Mixed()):
            measure(pair, args)


def measure(pair: Discrete | Mixed, args: Arguments) -> None:
    """Prints the three tables of a model."""
    baseline = trained_baseline(pair)
    ratio: dict[str, list[str]] = {name: [] for name in ESTIMATORS}
    bias: dict[str, list[str]] = {name: [] for name in ESTIMATORS}
    cost: dict[str, list[str]] = {name: [] for name in ESTIMATORS}
    for k in args.particles:
        drawn = {n: gradients(pair, make(k), args.replicas, baseline).double() for n, make in ESTIMATORS.items()}
        timed = {
            name: seconds(partial(gradients, pair, make(k), 500, baseline), args.repeats)
            for name, make in ESTIMATORS.items()
        }
        for name, grads in drawn.items():
            mean, deviation = grads.mean(1), grads.std(1)
            moved = deviation > 0  # IWAE without score gives some parameters no gradient
            snr = torch.where(moved, mean.abs() / deviation.where(moved, 1.0), 0.0)
            ratio[name].append(f"{snr.mean():.3f}")
            bias[name].append(distance(pair, name, k, drawn))
            cost[name].append(f"{timed[name] / timed['VIMCO']:.2f}")
    reference = "exact gradient" if isinstance(pair, Discrete) else "mean of VIMCO's gradients"
    table(f"**Signal-to-noise ratio, {pair.name} model**", args.particles, ratio)
    table(f"**Bias in standard errors, {pair.name} model**, from the {reference}", args.particles, bias)
    table(f"**Time of a step, {pair.name} model**, VIMCO = 1", args.particles, cost)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
