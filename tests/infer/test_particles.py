# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Programs that compute something else with vectorised particles are rejected, with the site; correct ones pass."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI
from pyro.infer.autoguide import AutoNormal, AutoNormalMessenger

from pyro_sqair.experiments import SYSTEMS, SQAIRSystem
from pyro_sqair.infer import (
    FIVO,
    NVIL,
    RWS,
    SMC,
    VIMCO,
    DReG,
    RenyiWarmup,
    check_particles,
    evaluate_bounds,
    particles,
    smc_evidence,
)
from pyro_sqair.infer.smc import check_steps
from pyro_sqair.scene.objects import SceneConfig

X = torch.tensor([0.5, -1.0])


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.5 * x.unsqueeze(-1), 0.8).expand([len(x), 2]).to_event(1))


def model(x, read=lambda z: z[..., 0]):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(read(z), 0.7), obs=x)


WRONG = {
    "indexed from the left": lambda z: z[:, 0],
    "flattened": lambda z: z.flatten()[:4].reshape(2, 2)[:, 0],
    "summed from the left": lambda z: z.sum(0)[..., 0].unsqueeze(0),
    "statistics of the batch": lambda z: z[..., 0] - z[..., 0].mean(),
    "random outside sites": lambda z: z[..., 0] + torch.randn(z.shape[:-1]),
}
ESTIMATORS = {
    "SVI": lambda *pair: SVI(*pair, pyro.optim.SGD({"lr": 0.1}), VIMCO(5)).step(X),
    "loss": lambda *pair: VIMCO(5).loss(*pair, X),
    "known plates": lambda *pair: RWS(5, max_plate_nesting=1).loss(*pair, X),
    "wrapped": lambda *pair: RenyiWarmup(DReG(VIMCO(5)), 10).differentiable_loss(*pair, X),
    "NVIL": lambda *pair: NVIL(3).loss(*pair, X),
    "evaluate_bounds": lambda *pair: evaluate_bounds(*pair, X, num_particles=4, chunk=2),
}
MESSAGE = r"of particle \d .*, got -\d.* and -\d.* nats at site '{}' of the {}.* vectorize_particles=False"


@pytest.mark.parametrize("read", WRONG.values(), ids=WRONG)
def test_a_wrong_model_is_named(read):
    check_particles(model, guide, X)
    with pytest.raises(ValueError, match=MESSAGE.format("x", "model")):
        check_particles(partial(model, read=read), guide, X)


@pytest.mark.parametrize("estimate", ESTIMATORS.values(), ids=ESTIMATORS)
def test_by_every_estimator(estimate):
    wrong = partial(model, read=WRONG["indexed from the left"])
    with pytest.raises(ValueError, match=MESSAGE.format("x", "model")):
        estimate(wrong, guide)
    estimate(model, guide)
    with pyro.validation_enabled(False):
        estimate(wrong, guide)


def test_the_first_wrong_site_is_the_guides():
    def program(x, observed):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            b = pyro.sample("b", dist.Bernoulli(logits=z[:, 0]))
            if observed:
                pyro.sample("x", dist.Normal(b + z[:, 0], 1.0), obs=x)

    with pytest.raises(ValueError, match=MESSAGE.format("b", "guide")):
        VIMCO(2).loss(partial(program, observed=True), partial(program, observed=False), X)


@pytest.mark.parametrize("probability", [0.5, 0.97, 0.999])
def test_discrete_draws_differ_although_the_guide_is_certain(probability):
    def program(x, observed):
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(torch.full((2,), probability)).to_event(1))
            if observed:
                pyro.sample("x", dist.Normal(b[:, 0], 1.0), obs=x)

    for seed in range(20):
        pyro.set_rng_seed(seed)
        with pytest.raises(ValueError, match="site 'x' of the model"):
            check_particles(partial(program, observed=True), partial(program, observed=False), X)


def test_impossible_values_are_not_drawn():
    def program(x, observed):
        with pyro.plate("data", len(x)):
            first = pyro.sample("first", dist.Bernoulli(0.5))
            second = pyro.sample("second", dist.Bernoulli(0.5 * first))  # an AIR-like chain
            count = pyro.sample("count", dist.Categorical(torch.tensor([0.5, 0.5, 0.0])))
            assert (second <= first).all() and (count < 2).all()
            if observed:
                pyro.sample("x", dist.Normal(first + second + count, 1.0), obs=x)

    check_particles(partial(program, observed=True), partial(program, observed=False), X)


def test_an_estimator_checks_every_pair():
    estimator = VIMCO(3)
    estimator.loss(model, guide, X)
    with pytest.raises(ValueError, match="site 'x' of the model"):
        estimator.loss(partial(model, read=WRONG["indexed from the left"]), guide, X)


def test_dropout_is_allowed():
    class Noisy(torch.nn.Dropout):
        def forward(self, x):
            model(x, lambda z: super(Noisy, self).forward(z)[..., 0])

    noisy = Noisy()
    VIMCO(3).loss(noisy, guide, X)
    assert noisy.training


def test_draw_of_another_size():
    def program(x, observed):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("u", dist.Normal(torch.zeros(len(z)), 1.0).to_event(1))
            if observed:
                pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)

    match = r"a draw of shape \[3, 3\] for each particle at site 'u' of the guide, got \[3, 10\].*from the right"
    with pytest.raises(ValueError, match=match):
        check_particles(partial(program, observed=True), partial(program, observed=False), torch.zeros(3))


@pytest.mark.parametrize("seed", range(5))
def test_a_mistake_of_a_nat_among_a_thousand(seed):
    """In the log-probability of an image of 1,200 nats, and not a mistake of the rounding errors of float32."""
    pyro.set_rng_seed(seed)
    image = torch.zeros(2, 2500)

    def image_model(image, read):
        with pyro.plate("data", len(image)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = torch.where(torch.arange(2500) < 25, 0.15 * read(z).unsqueeze(-1), 0.0)
            pyro.sample("x", dist.Normal(mean, 0.25).to_event(1), obs=image)

    pair = lambda read: (partial(image_model, read=read), lambda image: guide(image[:, 0]))  # noqa: E731
    check_particles(*pair(lambda z: z[..., 0] * (1 + 1e-6 * torch.randn(()))), image)
    with pytest.raises(ValueError, match=MESSAGE.format("x", "model").replace("-", "")):
        check_particles(*pair(lambda z: z[:, 0]), image)


def test_sites_that_occur_only_alone_or_only_together():
    """A program may leave out a site that contributes zero, but no other."""

    def program(x, extra, only_together):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            if (z.dim() == 3) == only_together:
                pyro.factor("extra", extra * torch.ones(len(x)))
            pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)

    check_particles(partial(program, extra=0.0, only_together=True), guide, X)
    with pytest.raises(ValueError, match=r"got 0.001 nats and no such site at site 'extra' of the model"):
        check_particles(partial(program, extra=1e-3, only_together=True), guide, X)
    with pytest.raises(ValueError, match="got no such site and one at site 'extra' of the model"):
        check_particles(partial(program, extra=0.0, only_together=False), guide, X)


@pytest.mark.parametrize("guide_type", [AutoNormal, AutoNormalMessenger])
def test_guides_of_pyro_and_subsamples(guide_type):
    """Of a plate of the data and of one inside it, drawn in the model."""

    def subsampling(x):
        with pyro.plate("data", len(x), subsample_size=3, dim=-1) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with pyro.plate("views", 4, subsample_size=2, dim=-2) as views:
                pyro.sample("x", dist.Normal(z[..., 0], 0.7), obs=x[rows][:, views].T)

    check_particles(subsampling, guide_type(subsampling), torch.randn(6, 4))
    VIMCO(2, vectorize_particles=False).loss(subsampling, guide_type(subsampling), torch.randn(6, 4))


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_passes(name, device, monkeypatch):
    """On a CPU also if the loop over slots ends earlier for one particle."""
    system = SYSTEMS[name](SQAIRSystem(hidden_size=16), (20, 20))
    model, guide = (program.to(device) for program in system.programs(SceneConfig(num_slots=3, what_dim=4)))
    frames = torch.rand(4, 2, 1, 50, 50, device=device)
    left_out = []
    compare = particles._compare

    def recording(key, k, together, alone):
        left_out.append(alone is None)
        compare(key, k, together, alone)

    monkeypatch.setattr(particles, "_compare", recording)
    for seed in range(4):
        pyro.set_rng_seed(seed)
        check_particles(model, guide, frames)
        check_steps(model, guide, frames)
    assert left_out
    if "vrnn" not in name and device.type == "cpu":
        assert any(left_out)


class Walk:
    """A random walk in two dimensions, of which the first is observed."""

    def __init__(self, is_model, later):
        self.is_model, self.later = is_model, later

    def init(self, batch):
        return torch.zeros(batch, 2)

    def step(self, t, state, frame):
        z = pyro.sample("z", dist.Normal(state, 1.0).to_event(1))
        if self.is_model:
            pyro.sample("x", dist.Normal(z[..., 0] if t == 0 else self.later(z), 0.7), obs=frame)
        return z


@pytest.mark.parametrize(
    "run",
    [
        lambda *pair: FIVO(3).differentiable_loss(*pair, torch.zeros(4, 2)),
        lambda *pair: smc_evidence(*pair, torch.zeros(4, 2), num_particles=3),
        lambda *pair: SMC(*pair, 3).run(torch.zeros(4, 2)),
    ],
    ids=["FIVO", "smc_evidence", "SMC"],
)
def test_programs_that_step(run):
    wrong = Walk(True, lambda z: z[:, 0])
    with pytest.raises(ValueError, match=MESSAGE.format("t=1: x", "model")):
        run(wrong, Walk(False, None))
    run(Walk(True, lambda z: z[..., 0]), Walk(False, None))
    with pyro.validation_enabled(False):
        run(wrong, Walk(False, None))


def test_it_runs_once_and_changes_no_draw():
    """With 19 runs: vectorised with 2 and, for two data, 16 particles, each of them alone, and the estimator's own."""
    runs = []

    def counting(x):
        runs.append(1)
        guide(x)

    def losses(validation):
        pyro.set_rng_seed(1)
        estimator = VIMCO(3, 1)
        found, counts = [], []
        with pyro.validation_enabled(validation):
            for _ in range(2):
                runs.clear()
                found.append(estimator.loss(model, counting, X))
                counts.append(len(runs))
        return found, counts

    checked, unchecked = losses(True), losses(False)
    assert checked[0] == unchecked[0]
    assert checked[1] == [19, 1]
    assert unchecked[1] == [1, 1]
    with poutine.trace() as tracer:
        check_particles(model, guide, X)
    assert not tracer.trace.nodes


@pytest.mark.parametrize(
    "read",
    [lambda z: torch.cat((z, torch.zeros(2, 2)), 1)[:, :2], lambda z: z.reshape(2, -1)],
    ids=["in the program", "in the log-probability"],
)
@pytest.mark.parametrize("estimate", [VIMCO(3).loss, NVIL(3).loss, partial(evaluate_bounds, num_particles=3)])
def test_advice_where_a_vectorised_run_fails(read, estimate):
    def matrix_model(x):
        with pyro.plate("data", 2):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(read(z), 1.0).to_event(1), obs=torch.zeros(2, 2))

    for validation in (True, False):
        with pyro.validation_enabled(validation), pytest.raises((RuntimeError, ValueError)) as caught:
            estimate(matrix_model, guide, X)
        assert "vectorize_particles=False" in "".join(caught.value.__notes__)
