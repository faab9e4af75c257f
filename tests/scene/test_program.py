# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""A program that cannot work says so when it is built, and building it leaves no trace."""

from __future__ import annotations

import dataclasses

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from pyro_sqair.data import four_balls, published_motion
from pyro_sqair.experiments.presets import embedded_digits_preset, small_balls_preset
from pyro_sqair.experiments.videos import BallVideos, DigitVideos
from pyro_sqair.guides import SQAIRGuide
from pyro_sqair.models import AIR, SQAIR, GRUPropagationPrior
from pyro_sqair.scene.objects import SceneConfig

N, D = 3, 2
SCENE = SceneConfig(N, D, image_size=(12, 10), glimpse_size=(6, 4))


def propagation(**changes):
    """A prior that keeps objects as they are, with some of its sites drawn otherwise or not at all."""
    laws = {
        "pres": dist.Bernoulli(0.5),
        "where": dist.Normal(torch.zeros(4), 1.0).to_event(1),
        "what": dist.Normal(torch.zeros(D), 1.0).to_event(1),
    } | changes

    def prior(previous, memory, slots):
        for _ in slots:
            for name, law in laws.items():
                if law is not None:
                    pyro.sample(name, law)

    return prior


def model(**parts) -> SQAIR:
    base = SQAIR.build(SCENE, 8)
    defaults = {
        "discovery_prior": base.discovery_prior,
        "propagation_prior": base.propagation_prior,
        "renderer": base.renderer,
    }
    return SQAIR(**(defaults | parts), scene=SCENE)


class TestPartsThatDoNotFit:
    def test_a_fitting_prior_is_taken(self):
        assert model(propagation_prior=propagation()).scene == SCENE

    @pytest.mark.parametrize("site", ["pres", "where", "what"])
    def test_a_prior_that_misses_a_site(self, site):
        with pytest.raises(ValueError, match=rf"prop_0.*missing: \['{site}'\]"):
            model(propagation_prior=propagation(**{site: None}))

    @pytest.mark.parametrize(("site", "size", "expected"), [("where", 3, 4), ("what", 5, D)])
    def test_a_prior_that_draws_a_wrong_shape(self, site, size, expected):
        law = dist.Normal(torch.zeros(size), 1.0).to_event(1)
        with pytest.raises(ValueError, match=f"'{site}' of slot prop_0 to have {expected} dimensions.*{size}"):
            model(propagation_prior=propagation(**{site: law}))

    @pytest.mark.parametrize("law", [dist.Normal(0.0, 1.0), dist.Beta(1.0, 1.0)])
    def test_presence_that_is_not_zero_or_one(self, law):
        with pytest.raises(ValueError, match="'pres' of slot prop_0 to be drawn from a distribution over 0 and 1"):
            model(propagation_prior=propagation(pres=law))

    def test_a_prior_that_cannot_read_its_own_memory(self):
        """It is first called with none, so only its second call shows."""

        def prior(previous, memory, slots):
            propagation()(previous, memory, slots)
            return previous.where[..., :3] if memory is None else memory + torch.zeros(4)

        with pytest.raises(RuntimeError, match=r"(?s)\(3\).*\(4\).*parts of SQAIR that fit each other"):
            model(propagation_prior=prior)

    def test_a_prior_for_another_size_of_what(self):
        with pytest.raises(RuntimeError, match=f"parts of SQAIR that fit each other and SceneConfig.*what_dim={D}"):
            model(propagation_prior=GRUPropagationPrior(D + 1, 8))

    def test_a_prior_that_draws_outside_the_loop(self):
        def prior(previous, memory, slots):
            pyro.sample("where", dist.Normal(0.0, 1.0))

        with pytest.raises(ValueError, match="'where' to be drawn in a loop"):
            model(propagation_prior=prior)

    def test_a_prior_that_draws_nothing(self):
        with pytest.raises(ValueError, match="in a loop 'for i in slots:' over the slots of phase 'prop', got none"):
            model(propagation_prior=lambda previous, memory, slots: None)

    def test_a_renderer_of_another_image_size(self):
        other = SQAIR.build(dataclasses.replace(SCENE, image_size=(12, 12)), 8).renderer
        with pytest.raises(ValueError, match=r"images of shape \[1, 12, 10\], got \[1, 12, 12\]"):
            model(renderer=other)

    def test_a_decoder_that_does_not_reach_the_glimpse(self):
        renderer = SQAIR.build(SCENE, 8).renderer
        renderer.decoder = nn.Linear(D, 25)
        with pytest.raises(ValueError, match="24 numbers.*1 channels and 6x4 pixels, got one that makes 25"):
            model(renderer=renderer)
        with pytest.raises(ValueError, match="got one that makes 25"):
            AIR(AIR.build(SCENE, 8).discovery_prior, renderer, SCENE)

    def test_a_guide_part_that_misses_a_site(self):
        def discovery(frame, propagated, slots):
            for _ in slots:
                pyro.sample("pres", dist.Bernoulli(frame.new_tensor(0.5)))

        with pytest.raises(ValueError, match="disc_0.*missing"):
            SQAIRGuide(discovery, SQAIRGuide.build(SCENE, 8).propagation, SCENE)

    def test_a_glimpse_larger_than_the_image(self):
        with pytest.raises(ValueError, match=r"glimpse no larger than the image \(12, 10\), got \(13, 4\)"):
            SceneConfig(N, D, image_size=(12, 10), glimpse_size=(13, 4))


class TestMoreObjectsThanSlots:
    def test_digits(self):
        videos = DigitVideos("embedded", dataclasses.replace(published_motion(), max_digits=3))
        with pytest.raises(ValueError, match="expected at least 3 slots.*got 2"):
            dataclasses.replace(embedded_digits_preset(), videos=videos)

    def test_balls(self):
        videos = BallVideos(dataclasses.replace(four_balls(), max_balls=5))
        with pytest.raises(ValueError, match="expected at least 5 slots.*got 4"):
            dataclasses.replace(small_balls_preset(), videos=videos)


class TestRehearsal:
    def test_leaves_no_trace(self):
        """Random numbers, the parameter store, and handlers around it are as they were."""
        parts = SQAIR.build(SCENE, 8)
        torch.manual_seed(7)
        expected = torch.rand(3)
        torch.manual_seed(7)
        with poutine.trace() as tracer:
            SQAIR(parts.discovery_prior, parts.propagation_prior, parts.renderer, SCENE)
        assert torch.equal(torch.rand(3), expected)
        assert not tracer.trace.nodes
        assert not list(pyro.get_param_store())

    def test_a_program_of_several_types_is_left_alone(self):
        """It is about to be converted, and cannot run before."""
        base = SQAIR.build(SCENE, 8)
        base.renderer.double()
        assert model(renderer=base.renderer).double().scene == SCENE
