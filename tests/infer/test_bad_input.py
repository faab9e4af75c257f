# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Invalid programs: with every estimator, the error names the site and a remedy."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from enumeration import Forced
from pyro.infer import ELBO
from pyro.poutine.plate_messenger import block_plate

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

X = torch.tensor([0.5, -1.0, 2.0])

WEIGHTED = {
    "VIMCO": lambda: VIMCO(4),
    "one at a time": lambda: VIMCO(4, vectorize_particles=False),
    "OVIS": lambda: OVIS(4),
    "released": lambda: ReleasedSQAIRSignal(4),
    "no score": lambda: IWAEWithoutScore(4),
    "RWS": lambda: RWS(4),
    "DReG": lambda: DReG(VIMCO(4)),
    "warm-up": lambda: RenyiWarmup(VIMCO(4), 10),
}
ESTIMATORS = WEIGHTED | {"NVIL": lambda: NVIL(4)}


@pytest.fixture(params=ESTIMATORS)
def estimator(request) -> ELBO:
    """Each estimator in turn, with 4 particles."""
    return ESTIMATORS[request.param]()


@pytest.fixture(params=WEIGHTED)
def weighted(request) -> ELBO:
    """Each estimator with weights per datum in turn, with 4 particles."""
    return WEIGHTED[request.param]()


def assert_ok(estimator, model, guide, *args):
    assert isinstance(estimator.loss(model, guide, *args), float)
    assert torch.isfinite(estimator.differentiable_loss(model, guide, *args))


def assert_error(estimator, model, guide, *args, match):
    """Every method of the estimator raises the error."""
    for call in (estimator.loss, estimator.differentiable_loss, estimator.loss_and_grads):
        with pytest.raises(ValueError, match=match):
            call(model, guide, *args)


def model_with(**factors):
    """A model of normal draws, with factors for each datum."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            for name, value in factors.items():
                pyro.factor(name, value(z) if callable(value) else torch.tensor(value))

    return model


plain_model = model_with()
INF = float("inf")


def plain_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.5 * x, 0.8))


def test_good_pair(estimator):
    assert_ok(estimator, plain_model, plain_guide, X)


def test_site_outside_the_batch_plate(weighted):
    def model(x):
        pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        plain_model(x)

    def guide(x):
        pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        plain_guide(x)

    match = r"(?s)inside plate 'data'.*'x'.*got 'scale' outside.*make them parameters"
    assert_error(weighted, model, guide, X, match=match)


def test_guide_plate_of_another_name(weighted):
    def guide(x):
        with pyro.plate("items", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    assert_error(weighted, plain_model, guide, X, match="inside plate 'data'.* got 'z' outside")


def test_plate_of_the_particles_name(weighted):
    def model(x):
        with pyro.plate("particles", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("particles", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x, 0.8))

    assert_error(weighted, model, guide, X, match="no plate called 'particles'.* around site 'z'.* rename the plate")


def test_undeclared_batch_dimension(weighted):
    def model(x):
        pyro.sample("z", dist.Normal(0.0, 1.0).expand([3]))
        pyro.sample("x", dist.Normal(0.0, 1.0).expand([3]), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(0.0, 1.0).expand([3]))

    with pytest.raises(ValueError, match=r"site 'z'.*\[4, 1\].*got \[4, 3\].*to_event"):
        log_weights(model, guide, (X,), num_particles=4, max_plate_nesting=1)
    # The trial run also finds it.
    assert_error(weighted, model, guide, X, match='site "z", invalid log_prob shape')


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pyro, before the error
@pytest.mark.parametrize("where", ["model", "guide"])
def test_enumerated_site(estimator, where):
    def program(x, observed, marked):
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(0.5), infer={"enumerate": "parallel"} if marked == "b" else None)
            if observed:
                c = pyro.sample("c", dist.Bernoulli(0.5), infer={"enumerate": "parallel"} if marked == "c" else None)
                pyro.sample("x", dist.Normal(b + c, 1.0), obs=x)

    marked = "c" if where == "model" else "b"
    assert_error(
        estimator,
        lambda x: program(x, True, marked),
        lambda x: program(x, False, marked),
        X,
        match=f"got site '{marked}' of the {where} marked for enumeration. Drop",
    )


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pyro, before the error
def test_unmatched_sites_are_named(estimator):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("zz", dist.Normal(0.0, 1.0))

    match = "(?s)in the model but not in the guide: 'z'.*in the guide but not in the model: 'zz'"
    assert_error(estimator, plain_model, guide, X, match=match)


def test_draw_shared_by_particles():
    def sharing(x):
        with block_plate("particles", strict=False), pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x, 0.8).has_rsample_(False))

    with pytest.raises(ValueError, match="'z' to be drawn once per particle"):
        VIMCO(3).differentiable_loss(plain_model, sharing, X)


def test_no_sites(weighted):
    assert_error(weighted, lambda: None, lambda: None, match="to have sample sites")


@pytest.mark.filterwarnings("ignore:Encountered")
def test_nan_is_traced_to_its_site(estimator):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            y = pyro.sample("y", dist.Normal(z, 1.0))
            pyro.sample("x", dist.Normal(y * float("nan"), 1.0, validate_args=False), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(0.0, 1.0))

    with pyro.validation_enabled(False):
        assert estimator.differentiable_loss(model, guide, X).isnan()  # no check, no synchronisation
    assert_error(estimator, model, guide, X, match="NaN at site 'x' of the model.*support")


@pytest.mark.filterwarnings("ignore:Encountered")
@pytest.mark.parametrize(
    ("factors", "got"),
    [
        ({"up": INF, "down": -INF}, r"infinities that cancel at 'up \(model\)', 'down \(model\)'"),
        ({"up": [0.0, INF, 0.0]}, r"got \+inf from infinite .* at 'up \(model\)'"),
    ],
    ids=["cancel", "infinite"],
)
def test_infinite_weight_is_named(weighted, factors, got):
    assert_error(weighted, model_with(**factors), plain_guide, X, match=got)


@pytest.mark.filterwarnings("ignore:Encountered")
@pytest.mark.parametrize("value", [INF, -INF])
def test_infinite_term_of_nvil_is_named(value):
    model = model_with(fine=0.0, odd=[0.0, value, 0.0])
    assert_error(NVIL(2), model, plain_guide, X, match="infinite ones at site 'odd' of the model. Check")
    with pyro.validation_enabled(False):
        assert not NVIL().differentiable_loss(model, plain_guide, X).isfinite()


def test_datum_without_possible_particle(weighted):
    model = model_with(fine=0.0, never=[0.0, -INF, 0.0])
    match = (
        r"(?s)log weight above -inf.*none of 4 for 1 of 3 data.* for all particles at 'never \(observed in the model"
    )
    assert_error(weighted, model, plain_guide, X, match=match + r"\)'.*Check that the observed values")
    with pyro.validation_enabled(False):
        assert not weighted.differentiable_loss(model, plain_guide, X).isfinite()  # no check, no synchronisation


@pytest.mark.parametrize("vectorize", [True, False], ids=["vectorised", "one at a time"])
def test_particles_excluded_at_different_sites(vectorize):
    """With two positive and two negative draws for each datum."""
    estimator = VIMCO(4, 1, vectorize_particles=vectorize)
    positive = lambda z: torch.where(z > 0, -INF, 0.0)  # noqa: E731
    negative = lambda z: torch.where(z < 0, -INF, 0.0)  # noqa: E731
    match = r"for some particles at each of 'up \(observed in the model\)', 'down \(observed in the model\)'"
    with Forced({}, {"z": torch.tensor([9.0, -9.0, 9.0, -9.0]).unsqueeze(-1).expand(4, 3)}):
        assert_error(estimator, model_with(fine=0.0, up=positive, down=negative), plain_guide, X, match=match)
        assert_ok(estimator, model_with(up=positive), plain_guide, X)


def test_latent_site_that_excludes_all_particles():
    """The guide draws what the model's prior excludes."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(0.0, 1.0, validate_args=False))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(2.0, 3.0))

    assert_error(VIMCO(4), model, guide, X, match=r"for all particles at 'z \(model\)'")


def test_evaluation_allows_impossible_particles():
    """A chunk without a possible particle is no error, since other chunks may have one. The bound may be -inf."""
    bound = evaluate_bounds(model_with(never=[0.0, -INF, 0.0]), plain_guide, X, num_particles=3, chunk=1).iwae.value
    assert bound.isneginf().tolist() == [False, True, False]
