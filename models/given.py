# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Placeholders in a scene prior for a part whose draws are given, so that the other part is fitted or judged alone."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from pyro import poutine
from torch import Tensor

from pyro_sqair.scene.objects import Objects
from pyro_sqair.scene.slots import Slots


def given_discovery(propagated: Objects, slots: Slots, first: bool) -> None:
    """A discovery prior whose draws have no density."""
    _draw(propagated, slots)


def given_propagation(previous: Objects, memory: Tensor | None, slots: Slots) -> None:
    """A propagation prior whose draws have no density."""
    _draw(previous, slots)


def _draw(objects: Objects, slots: Slots) -> None:
    zero = objects.pres.new_zeros(())
    with poutine.mask(mask=False):
        for _ in slots:
            pyro.sample("pres", dist.Bernoulli(logits=zero))
            pyro.sample("where", dist.Normal(zero.expand(4), 1.0).to_event(1))
            pyro.sample("what", dist.Normal(zero.expand(objects.what.shape[-1]), 1.0).to_event(1))
