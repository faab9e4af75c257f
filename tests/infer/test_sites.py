# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""`check_sites` names every difference between the sites of model and guide."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_sqair.infer import check_sites


def program(**sites):
    """A program with sites of given distributions, or pairs (distribution, options of pyro.sample)."""

    def run():
        for name, fn in sites.items():
            fn, options = fn if isinstance(fn, tuple) else (fn, {})
            pyro.sample(name, fn, **options)

    return run


NORMAL = dist.Normal(0.0, 1.0)
OBSERVED = (NORMAL, {"obs": torch.tensor(0.0)})
AUXILIARY = (NORMAL, {"infer": {"is_auxiliary": True}})


def vector(size):
    return dist.Normal(torch.zeros(size), 1.0).to_event(1)


def test_matching_pair_passes_and_leaves_no_trace():
    with poutine.trace() as tracer:
        assert check_sites(program(z=NORMAL, x=OBSERVED), program(u=AUXILIARY, z=NORMAL)) is None
    assert not tracer.trace.nodes


def test_arguments_are_passed():
    def model(size, *, scale):
        pyro.sample("z", dist.Normal(torch.zeros(size), scale).to_event(1))

    check_sites(model, model, 3, scale=2.0)


def test_plates_and_deterministic_sites_are_not_compared():
    def model():
        with pyro.plate("data", 4, subsample_size=2):
            z = pyro.sample("z", NORMAL)
        pyro.deterministic("twice", 2 * z)

    def guide():
        with pyro.plate("data", 4, subsample_size=2):
            pyro.sample("z", NORMAL)

    check_sites(model, guide)


@pytest.mark.parametrize(
    ("model", "guide", "message"),
    [
        (
            dict(z=NORMAL, y=NORMAL),
            dict(z=NORMAL),
            "in the model but not in the guide: 'y'. Sample them in the guide",
        ),
        (dict(z=NORMAL), dict(z=NORMAL, u=NORMAL), "in the guide but not in the model: 'u'.*is_auxiliary"),
        (dict(z=NORMAL, x=OBSERVED), dict(z=NORMAL, x=NORMAL), "in the guide but observed in the model: 'x'"),
        (dict(z=NORMAL, x=OBSERVED), dict(z=NORMAL, x=OBSERVED), "observed in the guide: 'x'.*pyro.factor"),
        (dict(z=NORMAL), dict(z=AUXILIARY), "marked auxiliary in the guide but sampled in the model: 'z'"),
        (
            dict(z=vector(2)),
            dict(z=vector(3)),
            r"'z' differ: \[2\] in the model, \[3\] in the guide.*to_event",
        ),
    ],
)
def test_mismatch(model, guide, message):
    with pytest.raises(ValueError, match=message):
        check_sites(program(**model), program(**guide))


def test_all_problems_are_listed_and_long_lists_shortened():
    model = {f"a{i}": NORMAL for i in range(11)} | {"z": vector(2)}
    with pytest.raises(ValueError, match=r"(?s)'a0', .*'a7' and 3 more\..*\n  - .*'u'.*\n  - .*'z'"):
        check_sites(program(**model), program(u=NORMAL, z=vector(3)))


def test_shape_that_breaks_the_model_is_still_named():
    def model():
        z = pyro.sample("z", vector(2))
        pyro.sample("x", dist.Normal((z @ torch.ones(2, 4)), 1.0).to_event(1), obs=torch.zeros(4))

    with pytest.raises(ValueError, match="event shapes of 'z' differ"):
        check_sites(model, program(z=vector(3)))


def test_other_errors_of_the_model_are_raised():
    def model():
        pyro.sample("z", NORMAL)
        raise KeyError("broken model")

    with pytest.raises(KeyError, match="broken model"):
        check_sites(model, program(z=NORMAL))
