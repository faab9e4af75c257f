# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""NVIL: its expected gradient, by enumeration, is the ELBO's, with baselines and without."""

import itertools
from collections.abc import Callable
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.distributions.score_parts import ScoreParts
from pyro.infer import TraceGraph_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_sqair.infer import NVIL, NeuralBaseline, nvil, with_baselines
from pyro_sqair.infer.log_weights import log_weights

F64 = torch.float64
X = torch.tensor([0.7, -1.1], dtype=F64)


class Forced(Messenger):
    """Sets discrete draws to given bits and normal ones to loc + scale * given noise, as if sampled."""

    def __init__(self, bits: dict[str, Tensor], noise: dict[str, Tensor]) -> None:
        super().__init__()
        self.bits, self.noise = bits, noise

    def _pyro_sample(self, msg) -> None:
        if msg["done"] or msg["is_observed"]:
            return
        if msg["name"] in self.bits:
            # What Pyro tracks, the draws that this one depends on, comes with a sample.
            msg["value"], msg["done"] = self.bits[msg["name"]] + 0 * msg["fn"].sample(), True
        elif msg["name"] in self.noise:
            msg["value"], msg["done"] = msg["fn"].loc + msg["fn"].scale * self.noise[msg["name"]], True


class MaskedLate(TorchDistribution):
    """A coin whose mask is a draw made after it."""

    arg_constraints: dict = {}

    def __init__(self, base: dist.Bernoulli, holder: dict[str, Tensor]) -> None:
        self.base, self.holder = base, holder
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return MaskedLate(self.base.expand(batch_shape), self.holder)

    def sample(self, sample_shape=()):
        return self.base.sample(torch.Size(sample_shape))

    def log_prob(self, value):
        return torch.where(self.holder["d"] > 0, self.base.log_prob(value), 0.0)

    def score_parts(self, value):
        return ScoreParts(self.log_prob(value), self.base.log_prob(value), 0)


def parameters() -> tuple[Tensor, Tensor]:
    theta = torch.tensor([0.3, -0.4, 0.8, 0.6, -0.5], dtype=F64, requires_grad=True)
    phi = torch.tensor([0.5, -0.3, 0.9, 0.4, 0.7, -0.2, 0.6], dtype=F64, requires_grad=True)
    return theta, phi


def make_pair(theta: Tensor, phi: Tensor) -> tuple[Callable, Callable]:
    """c -> d -> e -> z -> x: c masked late by d, e early by d or blanked, z normal; all see what was before."""

    def guide(x):
        held: dict[str, Tensor] = {}
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", MaskedLate(dist.Bernoulli(logits=phi[0] * x + phi[1]), held))
            held["d"] = d = pyro.sample("d", dist.Bernoulli(logits=phi[2] * c - phi[3] * x))
            with poutine.mask(mask=d.bool()):
                e = pyro.sample("e", dist.Bernoulli(logits=phi[4] * c + phi[5]))
            f = pyro.sample("f", dist.Bernoulli(logits=phi[6] * e + phi[3]).mask(False))
            pyro.sample("z", dist.Normal(phi[1] * f + phi[0] * x, torch.tensor(0.7, dtype=F64)))

    def model(x):
        held: dict[str, Tensor] = {}
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", MaskedLate(dist.Bernoulli(logits=theta[0]), held))
            held["d"] = d = pyro.sample("d", dist.Bernoulli(logits=theta[1]))
            with poutine.mask(mask=d.bool()):
                e = pyro.sample("e", dist.Bernoulli(logits=theta[2]))
            f = pyro.sample("f", dist.Bernoulli(logits=theta[2]).mask(False))
            z = pyro.sample("z", dist.Normal(theta[3] * f, torch.tensor(1.0, dtype=F64)))
            pyro.sample("x", dist.Normal(z + d * c + theta[4] * d * e, torch.tensor(0.9, dtype=F64)), obs=x)

    return model, guide


NAMES = "cdef"
NOISE = {"z": torch.tensor([0.4, -0.9], dtype=F64)}


class Outcomes:
    """All 16 outcomes of each datum's bits, at fixed noise, in the data plate."""

    def __init__(self, x: Tensor) -> None:
        patterns = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=F64)
        self.bits = dict(zip(NAMES, patterns.T.repeat_interleave(len(x), 1), strict=True))
        self.noise = {"z": NOISE["z"][: len(x)].repeat(16)}
        self.x = x.repeat(16)

    def exact_gradient(self) -> tuple[Tensor, Tensor]:
        """Of the ELBO at fixed noise, and the probability of each outcome: no estimator."""
        theta, phi = parameters()
        with Forced(self.bits, self.noise):
            out = log_weights(*make_pair(theta, phi), (self.x,), num_particles=1, max_plate_nesting=1)
        prob = out.score[0].exp()
        grads = torch.autograd.grad((prob * out.log_weight[0]).sum(), (theta, phi))
        return torch.cat(grads), prob.detach()

    def one_by_one(self, elbo: TraceGraph_ELBO, change: Callable = lambda guide, phi: guide) -> Tensor:
        """The expected gradient: a run of one datum for each outcome."""
        theta, phi = parameters()
        _, prob = self.exact_gradient()
        total = torch.zeros(len(theta) + len(phi), dtype=F64)
        for i in range(len(self.x)):
            model, guide = make_pair(theta, phi)
            theta.grad = phi.grad = None
            bits, noise = ({k: v[i : i + 1] for k, v in values.items()} for values in (self.bits, self.noise))
            with Forced(bits, noise):
                elbo.loss_and_grads(model, change(guide, phi), self.x[i : i + 1])
            total -= prob[i] * torch.cat([theta.grad, phi.grad])
        return total

    def at_once(self, elbo: TraceGraph_ELBO) -> Tensor:
        """The expected gradient without baselines, in one run: a scale by the probability weighs the costs."""
        theta, phi = parameters()
        _, prob = self.exact_gradient()
        with Forced(self.bits, self.noise):
            pair = (poutine.scale(program, scale=prob) for program in make_pair(theta, phi))
            loss = elbo.differentiable_loss(*pair, self.x)
        return -torch.cat(torch.autograd.grad(loss, (theta, phi)))


class TestExpectation:
    def test_without_baselines(self):
        outcomes = Outcomes(X)
        exact, prob = outcomes.exact_gradient()
        torch.testing.assert_close(prob.sum(), torch.tensor(2.0, dtype=F64))
        assert exact.abs().min() > 1e-3
        torch.testing.assert_close(outcomes.at_once(NVIL()), exact, rtol=0, atol=1e-10)
        torch.testing.assert_close(outcomes.one_by_one(NVIL()), exact, rtol=0, atol=1e-10)

    def test_with_baselines(self):
        """Networks, one of which is told a parameter of the guide itself: it must not reach that parameter."""
        networks = {name: NeuralBaseline(2, [5], scale=3.0).double() for name in ("c", "[def]")}

        def change(guide: Callable, phi: Tensor) -> Callable:
            return with_baselines(guide, networks, lambda x: torch.stack([x, phi[0].expand_as(x)], -1))

        # One datum at a time: then Pyro drops the dimension of the cost, and so must the baseline.
        outcomes = Outcomes(X)
        exact, _ = outcomes.exact_gradient()
        torch.testing.assert_close(outcomes.one_by_one(NVIL(), change), exact, rtol=0, atol=1e-10)
        with pytest.raises(ValueError, match="Expected baseline at site"):
            outcomes.one_by_one(TraceGraph_ELBO(), change)
        assert all((p.grad != 0).any() for n in networks.values() for p in n.parameters())

    def test_with_a_running_mean(self):
        """It is of costs of earlier steps, so any value of it leaves the expectation as it is."""
        torch.set_default_dtype(F64)  # Pyro makes its running mean of the default type
        name = "__baseline_avg_downstream_cost_d"
        outcomes = Outcomes(X[:1])
        exact, _ = outcomes.exact_gradient()

        def change(guide: Callable, phi: Tensor) -> Callable:
            for site in NAMES:  # the same before every outcome
                pyro.get_param_store()[name[:-1] + site] = torch.tensor(-1.7)
            return with_baselines(guide, {"*": None}, decay=0.9)

        torch.testing.assert_close(outcomes.one_by_one(NVIL(), change), exact, rtol=0, atol=1e-10)
        assert pyro.param(name) != -1.7

    @pytest.mark.parametrize("mended", ["c", "f"])
    def test_pyros_own_is_biased_where_masks_are_late_or_blank(self, mended, monkeypatch):
        """Without either mending the expectation is wrong, so the tests above would see it."""
        mend = nvil._mend_score
        monkeypatch.setattr(nvil, "_mend_score", lambda site: mend(site) if site["name"] != mended else None)
        outcomes = Outcomes(X)
        exact, _ = outcomes.exact_gradient()
        assert (outcomes.at_once(NVIL()) - exact).abs().max() > 0.02 * exact.abs().max()


def test_which_sites_get_one():
    networks = {"c": NeuralBaseline(1).double(), "*": NeuralBaseline(1).double()}
    guide = with_baselines(make_pair(*parameters())[1], networks, lambda x: x[:, None])
    trace = poutine.trace(guide).get_trace(X)
    options = {name: trace.nodes[name]["infer"].get("baseline", {}) for name in "cdefz"}
    attached = {name: option.get("nn_baseline") for name, option in options.items()}
    assert attached == {"c": networks["c"], "d": networks["*"], "e": networks["*"], "f": networks["*"], "z": None}


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pyro's, which only warns
class TestBadInput:
    """As of the estimators with weights (test_bad_input.py); sites outside the plate are no trouble here."""

    @staticmethod
    def model(x, **factors):
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)
            for name, value in factors.items():
                pyro.factor(name, torch.tensor(value))

    @staticmethod
    def guide(x, site="b", **infer):
        with pyro.plate("data", len(x)):
            pyro.sample(site, dist.Bernoulli(0.4), infer=infer)

    @staticmethod
    def assert_error(model, guide, match):
        for call in (NVIL().loss, NVIL(2).differentiable_loss, NVIL().loss_and_grads):
            with pytest.raises(ValueError, match=match):
                call(model, guide, X)

    def test_enumerated_site(self):
        marked = partial(self.guide, enumerate="parallel")
        self.assert_error(self.model, marked, "site 'b' of the guide marked for enumeration. Drop")

    def test_unmatched_sites_are_named(self):
        match = "(?s)in the model but not in the guide: 'b'.*in the guide but not in the model: 'c'"
        self.assert_error(self.model, partial(self.guide, site="c"), match)

    @pytest.mark.parametrize("value", [float("inf"), -float("inf")])
    def test_infinite_term_is_named(self, value):
        model = partial(self.model, fine=[0.0, 0.0], odd=[0.0, value])
        self.assert_error(model, self.guide, "infinite ones at site 'odd' of the model. Check")
        with pyro.validation_enabled(False):
            assert not NVIL().differentiable_loss(model, self.guide, X).isfinite()  # nothing is read, nothing raised

    def test_nan_is_traced_to_its_site(self):
        def model(x):
            self.model(x)
            pyro.sample("y", dist.Normal(float("nan") * x, 1.0, validate_args=False).to_event(1), obs=x)

        self.assert_error(model, self.guide, "NaN at site 'y' of the model")
