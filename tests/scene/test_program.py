# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Programs reject frames of a wrong form and components that do not fit each other."""

from __future__ import annotations

import dataclasses
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from pyro_sqair.data import four_balls, published_motion
from pyro_sqair.experiments import SQAIRSystem, preset
from pyro_sqair.experiments.videos import BallVideos, DigitVideos
from pyro_sqair.guides import SQAIRGuide
from pyro_sqair.models import SQAIR, GRUPropagationPrior, Renderer, mlp_renderer
from pyro_sqair.scene.objects import SceneConfig
from pyro_sqair.scene.program import Program

N, D = 3, 2
SCENE = SceneConfig(N, D, image_size=(12, 10), glimpse_size=(6, 4))
VIDEO = (3, 2, 1, 12, 10)


class TestFrames:
    @pytest.mark.parametrize(
        "frames",
        [
            torch.rand(VIDEO),
            torch.rand(VIDEO).double(),
            torch.rand(VIDEO).half(),
            torch.rand(VIDEO)[:0],
            torch.zeros(VIDEO),
            torch.ones(VIDEO),
        ],
    )
    def test_valid_frames(self, frames):
        Program(SCENE).check(frames)

    @pytest.mark.parametrize(
        ("frames", "message"),
        [
            (torch.rand(VIDEO).numpy(), r"expected frames as a torch.Tensor, got ndarray"),
            (torch.rand(3, 2, 12, 10), r"expected frames of shape \[T, B, C, H, W\], got \[3, 2, 12, 10\]"),
            (torch.rand(3, 2, 3, 12, 10), r"expected .*\[T, B, 1, 12, 10\], got \[3, 2, 3, 12, 10\]"),
            (torch.rand(3, 2, 1, 10, 12), r"expected .*\[T, B, 1, 12, 10\], got \[3, 2, 1, 10, 12\]"),
            (torch.rand(3, 0, 1, 12, 10), r"expected at least one sequence .*\[3, 0, 1, 12, 10\]"),
            (torch.zeros(VIDEO, dtype=torch.uint8), r"expected floating-point .*got torch.uint8.*divide by 255"),
        ],
    )
    def test_wrong_frames(self, frames, message):
        with pytest.raises(ValueError, match=message):
            Program(SCENE).check(frames)

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (math.nan, "finite values, got 1 NaN"),
            (math.inf, "finite values, got 1 NaN or infinite"),
            (-0.01, r"in \[0, 1\], got values from -0.01 to"),
            (1.5, r"in \[0, 1\], got values from .* to 1.5"),
            (200.0, "divide by 255"),
        ],
    )
    def test_wrong_values(self, value, message):
        frames = torch.rand(VIDEO)
        frames[1, 0, 0, 2, 3] = value
        Program(SCENE).check(frames, values=False)
        with pytest.raises(ValueError, match=message):
            Program(SCENE).check(frames)


def propagation(**changes):
    """A propagation prior with some of its distributions replaced, or left out if None."""
    distributions = {
        "pres": dist.Bernoulli(0.5),
        "where": dist.Normal(torch.zeros(4), 1.0).to_event(1),
        "what": dist.Normal(torch.zeros(D), 1.0).to_event(1),
    } | changes

    def prior(previous, memory, slots):
        for _ in slots:
            for name, distribution in distributions.items():
                if distribution is not None:
                    pyro.sample(name, distribution)

    return prior


def cannot_read_its_own_memory(previous, memory, slots):
    """The first call gets no memory, so only the second one fails."""
    propagation()(previous, memory, slots)
    return previous.where[..., :3] if memory is None else memory + torch.zeros(4)


def draws_outside_the_loop(previous, memory, slots):
    pyro.sample("where", dist.Normal(0.0, 1.0))


def draws_nothing(previous, memory, slots):
    pass


def model(**parts) -> SQAIR:
    base, _ = SQAIRSystem(8).programs(SCENE)
    defaults = {name: base.part(name) for name in ("discovery_prior", "propagation_prior", "renderer")}
    return SQAIR(**(defaults | parts), scene=SCENE)


class TestPartsThatDoNotFit:
    def test_a_fitting_prior(self):
        assert model(propagation_prior=propagation()).scene == SCENE

    @pytest.mark.parametrize(
        ("prior", "error", "message"),
        [
            (cannot_read_its_own_memory, RuntimeError, r"(?s)\(3\).*\(4\).*parts of SQAIR that fit each other"),
            (GRUPropagationPrior(D + 1, 8), RuntimeError, f"of SQAIR that fit each other and SceneConf.*what_dim={D}"),
            (propagation(what=None), ValueError, r"prop_0.*missing: \['what'\]"),
            (
                propagation(where=dist.Normal(torch.zeros(3), 1.0).to_event(1)),
                ValueError,
                "'where' of slot.* 4 dim.*3",
            ),
            (propagation(pres=dist.Normal(0.0, 1.0)), ValueError, "'pres' of slot prop_0 .* distribution over 0 and 1"),
            (propagation(pres=dist.Beta(1.0, 1.0)), ValueError, "'pres' of slot prop_0 .* distribution over 0 and 1"),
            (draws_outside_the_loop, ValueError, "'where' to be drawn in a loop"),
            (draws_nothing, ValueError, "in a loop 'for i in slots:' over the slots of phase 'prop', got none"),
        ],
    )
    def test_a_wrong_prior(self, prior, error, message):
        with pytest.raises(error, match=message):
            model(propagation_prior=prior)

    def test_a_renderer_of_another_image_size(self):
        other = mlp_renderer(dataclasses.replace(SCENE, image_size=(12, 12)), 8)
        with pytest.raises(ValueError, match=r"images of shape \[1, 12, 10\], got \[1, 12, 12\]"):
            model(renderer=other)

    def test_a_decoder_of_another_glimpse_size(self):
        renderer = Renderer(nn.Linear(D, 25), SCENE)
        with pytest.raises(ValueError, match="24 numbers.*1 channels and 6x4 pixels, got one that makes 25"):
            model(renderer=renderer)
        with pytest.raises(ValueError, match="got one that makes 25"):
            model(propagation_prior=None, renderer=renderer)

    def test_a_guide_part_without_a_site(self):
        def discovery(frame, propagated, slots):
            for _ in slots:
                pyro.sample("pres", dist.Bernoulli(frame.new_tensor(0.5)))

        with pytest.raises(ValueError, match="disc_0.*missing"):
            SQAIRGuide(discovery, None, SCENE)


def test_more_objects_than_slots():
    videos = DigitVideos("embedded", dataclasses.replace(published_motion(), max_digits=3))
    with pytest.raises(ValueError, match="expected at least 3 slots.*got 2"):
        dataclasses.replace(preset("embedded-digits"), videos=videos)
    videos = BallVideos(dataclasses.replace(four_balls(), max_balls=5))
    with pytest.raises(ValueError, match="expected at least 5 slots.*got 4"):
        dataclasses.replace(preset("small-balls"), videos=videos)


class TestRehearsal:
    def test_has_no_side_effects(self):
        """Random numbers, the parameter store and outer handlers are unchanged."""
        base = model()
        torch.manual_seed(7)
        expected = torch.rand(3)
        torch.manual_seed(7)
        with poutine.trace() as tracer:
            base.rehearse()
        assert torch.equal(torch.rand(3), expected)
        assert not tracer.trace.nodes
        assert not list(pyro.get_param_store())

    def test_a_program_of_several_dtypes_is_not_checked(self):
        """It cannot run before it is converted."""
        assert model(renderer=mlp_renderer(SCENE, 8).double()).double().scene == SCENE
