# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""`vectorize_particles=False`: programs that are written for one particle at a time, as in Pyro's examples/air."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from enumeration import Forced, log_bernoulli, log_normal
from pyro import poutine
from pyro.infer import SVI
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn

from pyro_sqair.infer import (
    NVIL,
    OVIS,
    RWS,
    VIMCO,
    DReG,
    IWAEWithoutScore,
    ReleasedSQAIRSignal,
    RenyiWarmup,
    evaluate_bounds,
)
from pyro_sqair.infer.log_weights import log_weights
from pyro_sqair.infer.multi_sample import SurrogateELBO

F64 = torch.float64


class AIR(nn.Module):
    """Two objects with (pres, what) in an image of four pixels.

    `model` and `guide` have explicit batch sizes, count dimensions from the left, and draw a subsample of the images.
    `wide_model` and `wide_guide` are the same programs for all images, written for vectorised particles.
    """

    def __init__(self) -> None:
        super().__init__()
        self.predict = nn.Linear(4 + 2 + 1, 1 + 2 + 2)
        self.decode = nn.Linear(2, 4)

    def model(self, images: Tensor, batch_size: int) -> None:
        pyro.module("decode", self.decode)
        with pyro.plate("data", images.size(0)) as rows:
            n = rows.size(0)
            canvas, pres = images.new_zeros(n, 4), images.new_ones(n, 1)
            for t in range(2):
                pres = pyro.sample(f"pres_{t}", dist.Bernoulli(0.5 * pres).to_event(1))
                what = dist.Normal(images.new_zeros(n, 2), images.new_ones(n, 2)).mask(pres).to_event(1)
                canvas = canvas + self.decode(pyro.sample(f"what_{t}", what)) * pres.view(-1, 1)
            pixels = dist.Normal(canvas.view(n, -1), 0.5 * images.new_ones(n, 4)).to_event(1)
            pyro.sample("image", pixels, obs=images[rows].view(n, -1))

    def guide(self, images: Tensor, batch_size: int) -> None:
        pyro.module("predict", self.predict)
        with pyro.plate("data", images.size(0), subsample_size=batch_size) as rows:
            n = rows.size(0)
            pres, what = images.new_ones(n, 1), images.new_zeros(n, 2)
            for t in range(2):
                out = self.predict(torch.cat((images[rows].view(n, -1), what, pres), 1))
                pres = pyro.sample(f"pres_{t}", dist.Bernoulli(out[:, 0:1].sigmoid() * pres).to_event(1))
                what_fn = dist.Normal(out[:, 1:3], out[:, 3:5].exp()).mask(pres).to_event(1)
                what = pyro.sample(f"what_{t}", what_fn)

    def wide_model(self, images: Tensor) -> None:
        with pyro.plate("data", len(images)):
            canvas, pres = torch.zeros_like(images), images.new_ones(1)
            for t in range(2):
                pres = pyro.sample(f"pres_{t}", dist.Bernoulli(0.5 * pres).to_event(1))
                what = pyro.sample(f"what_{t}", dist.Normal(images.new_zeros(2), 1.0).mask(pres).to_event(1))
                canvas = canvas + self.decode(what) * pres
            pyro.sample("image", dist.Normal(canvas, 0.5).to_event(1), obs=images)

    def wide_guide(self, images: Tensor) -> None:
        with pyro.plate("data", len(images)):
            pres, what = images.new_ones(1), images.new_zeros(2)
            for t in range(2):
                shape = (*what.shape[:-2], len(images))
                seen = images.expand(*shape, 4), what.expand(*shape, 2), pres.expand(*shape, 1)
                logit, loc, log_scale = self.predict(torch.cat(seen, -1)).split([1, 2, 2], -1)
                pres = pyro.sample(f"pres_{t}", dist.Bernoulli(logit.sigmoid() * pres).to_event(1))
                what = pyro.sample(f"what_{t}", dist.Normal(loc, log_scale.exp()).mask(pres).to_event(1))


def dream(trace, images, *sizes):
    return (trace.nodes["image"]["value"], *sizes)


WEIGHTED = {
    "VIMCO": lambda **k: VIMCO(3, **k),
    "VIMCO, arithmetic": lambda **k: VIMCO(3, control_variate="arithmetic", **k),
    "OVIS": lambda **k: OVIS(3, **k),
    "released": lambda **k: ReleasedSQAIRSignal(3, **k),
    "no score": lambda **k: IWAEWithoutScore(3, **k),
    "RWS": lambda **k: RWS(3, **k),
    "DReG": lambda **k: DReG(VIMCO(3, **k)),
    "warm-up": lambda **k: RenyiWarmup(DReG(OVIS(3, **k)), 10),
}
ESTIMATORS = WEIGHTED | {
    "NVIL": lambda **k: NVIL(3, **k),
    "RWS, asleep": lambda **k: RWS(3, insomnia=0.5, dream=dream, **k),
}


@pytest.mark.parametrize("make", WEIGHTED.values(), ids=WEIGHTED)
def test_equal_to_the_vectorised_program(make):
    """Bound and gradient of each datum at the same draws; so the draws of DReG are converted, too."""
    air, images = AIR().double(), torch.randn(4, 4, dtype=F64)
    pres = torch.tensor([[1.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.0]], dtype=F64).unsqueeze(-1)
    bits = {"pres_0": pres, "pres_1": pres * pres.roll(1, 1)}
    noise = {f"what_{t}": torch.randn(3, 4, 2, dtype=F64) for t in range(2)}

    def results(elbo: SurrogateELBO, *program) -> tuple[Tensor, ...]:
        with Forced(bits, noise):
            bound = elbo.surrogate(*program)
        assert bound.shape == (4,)
        return bound, *(g for b in bound for g in torch.autograd.grad(b, [*air.parameters()], retain_graph=True))

    alone = results(make(vectorize_particles=False), air.model, air.guide, images, 4)
    torch.testing.assert_close(alone, results(make(), air.wide_model, air.wide_guide, images), rtol=0, atol=1e-10)
    if make is WEIGHTED["DReG"]:
        plain = results(VIMCO(3), air.wide_model, air.wide_guide, images)
        assert max((a - p).abs().max() for a, p in zip(alone, plain, strict=True)) > 0.01


@pytest.mark.parametrize("make", ESTIMATORS.values(), ids=ESTIMATORS)
def test_it_trains(make):
    air, images = AIR(), torch.randn(6, 4)
    svi = SVI(air.model, air.guide, pyro.optim.SGD({"lr": 0.01}), make(vectorize_particles=False))
    before = [p.clone() for p in air.parameters()]
    size = 6 if make is ESTIMATORS["RWS, asleep"] else 3  # a dream is of all images
    assert torch.isfinite(torch.as_tensor(svi.step(images, size)))
    assert all((p != b).any() for p, b in zip(air.parameters(), before, strict=True))


def test_all_runs_have_the_same_subsample():
    air, images, seen = AIR(), torch.randn(50, 4), []

    def guide(images, batch_size):
        with poutine.trace() as tracer:
            air.guide(images, batch_size)
        seen.append(tracer.trace.nodes["data"]["value"].tolist())

    estimator = VIMCO(4, vectorize_particles=False)
    estimator.loss(air.model, guide, images, 5)
    seen.clear()
    torch.manual_seed(0)
    losses = [estimator.loss(air.model, guide, images, 5) for _ in range(2)]
    assert seen == [seen[0]] * 4 + [seen[4]] * 4
    assert seen[0] != seen[4]
    torch.manual_seed(0)
    first = estimator.surrogate(air.model, air.guide, images, 5)
    assert first.shape == (5,)
    assert losses[0] == pytest.approx(-10 * first.sum().item(), rel=1e-6)


def test_programs_may_branch_on_a_draw():
    """So the sites differ from particle to particle; a plate may have another size."""
    x, logit = torch.tensor(0.7, dtype=F64), torch.tensor(0.4, dtype=F64)
    bits, noise = torch.tensor([1.0, 0.0, 1.0], dtype=F64), torch.tensor([0.3, 9.0, -1.2], dtype=F64)

    def program(b_logit, loc, observed):
        def run():
            b = pyro.sample("b", dist.Bernoulli(logits=b_logit))
            z = pyro.sample("z", dist.Normal(loc, 1.0)) if b.item() else torch.zeros((), dtype=F64)
            with pyro.plate("parts", 1 + int(b.item())):
                pyro.sample("part", dist.Normal(b, torch.ones((), dtype=F64)))
            if observed:
                pyro.sample("x", dist.Normal(z, torch.ones((), dtype=F64)), obs=x)

        return run

    loc = torch.zeros((), dtype=F64)
    with Forced({"b": bits}, {"z": noise}):
        out = log_weights(
            program(logit, loc, True),
            program(-logit, loc + 0.5, False),
            num_particles=3,
            max_plate_nesting=1,
            vectorize_particles=False,
        )
    z = bits * (0.5 + noise)
    log_q = log_bernoulli(bits, -logit) + bits * log_normal(z, 0.5, 1.0)
    log_p = log_bernoulli(bits, logit) + bits * log_normal(z, 0.0, 1.0) + log_normal(x, z, 1.0)
    torch.testing.assert_close(out.log_weight, log_p - log_q)
    torch.testing.assert_close(out.score, log_bernoulli(bits, -logit))


def test_nvil_is_the_mean_of_single_particles():
    air, images = AIR(), torch.randn(6, 4)
    torch.manual_seed(0)
    loss = NVIL(3, vectorize_particles=False).loss(air.model, air.guide, images, 6)
    torch.manual_seed(0)
    single = NVIL()
    assert loss == pytest.approx(sum(single.loss(air.model, air.guide, images, 6) for _ in range(3)) / 3, rel=1e-6)


def test_evaluation():
    """In chunks and with standard errors; the vectorised run fails and says what to do."""
    air, images = AIR(), torch.randn(6, 4)
    pyro.set_rng_seed(0)
    alone = evaluate_bounds(air.model, air.guide, images, 6, num_particles=400, chunk=150, vectorize_particles=False)
    wide = evaluate_bounds(air.wide_model, air.wide_guide, images, num_particles=400)
    assert alone.log_weight.shape == (400, 6)
    error = (alone.elbo.error**2 + wide.elbo.error**2).sqrt()
    assert ((alone.elbo.value - wide.elbo.value).abs() < 4 * error).all()
    with pytest.raises(RuntimeError) as caught:
        evaluate_bounds(air.model, air.guide, images, 6, num_particles=4)
    assert "vectorize_particles=False" in "".join(caught.value.__notes__)


def test_an_error_in_a_run_leaves_no_handler():
    def failing():
        raise IndexError("in the second run")

    runs = iter([lambda: None, lambda: None, failing])

    def program():
        pyro.sample("z", dist.Normal(0.0, 1.0))
        next(runs)()

    with pytest.raises(IndexError, match="in the second run") as caught:
        log_weights(program, program, num_particles=3, max_plate_nesting=0, vectorize_particles=False)
    assert not _PYRO_STACK
    assert not hasattr(caught.value, "__notes__")
