# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""AIR: every frame is like the first frame of SQAIR."""

import pytest
import torch
from pyro import poutine

from pyro_sqair.experiments import AIRSystem, SQAIRSystem
from pyro_sqair.guides import SQAIRGuide
from pyro_sqair.infer import VIMCO, check_sites
from pyro_sqair.infer.log_weights import log_weights
from pyro_sqair.models import SQAIR, GeometricCount
from pyro_sqair.scene.objects import SceneConfig, no_objects
from pyro_sqair.tracking.rollout import infer_objects

N, D, T, B = 3, 2, 4, 5
SCENE = SceneConfig(N, D, image_size=(12, 12), glimpse_size=(6, 6))


@pytest.fixture
def programs() -> tuple[SQAIR, SQAIRGuide]:
    return AIRSystem(8).programs(SCENE)


def test_sites_fit_and_everything_learns(programs):
    frames = torch.rand(T, B, 1, 12, 12)
    check_sites(*programs, frames)
    objective = VIMCO(3)(*programs)
    objective(frames).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.parameters())


def test_weight_of_a_video_is_that_of_its_frames(programs):
    """Frames are independent: for the same draws, the log weight is the sum of those of videos of one frame."""
    frames = torch.rand(T, B, 1, 12, 12).double()
    model, guide = (program.double() for program in programs)
    trace = poutine.trace(guide).get_trace(frames)
    whole = log_weights(
        model, poutine.replay(guide, trace=trace), (frames,), num_particles=1, max_plate_nesting=1
    ).log_weight
    total = torch.zeros(1, B).double()
    for t in range(T):
        alone = poutine.trace(guide).get_trace(frames[t : t + 1])
        for name in [name for name in alone.nodes if name.startswith("frame_0/")]:
            other = name.replace("frame_0/", f"frame_{t}/")
            if other in trace.nodes:
                alone.nodes[name]["value"] = trace.nodes[other]["value"]
        one = (model, poutine.replay(guide, trace=alone), (frames[t : t + 1],))
        total = total + log_weights(*one, num_particles=1, max_plate_nesting=1).log_weight
    torch.testing.assert_close(whole, total)


def test_first_frame_weighs_as_in_sqair(programs):
    """With the same parts and seed, AIR and SQAIR have the same weights on a video of one frame."""
    (model, guide), (other, other_guide) = programs, SQAIRSystem(8).programs(SCENE)
    other.discovery_prior, other.renderer = model.discovery_prior, model.renderer
    other_guide.discovery = guide.discovery
    frames = torch.rand(1, B, 1, 12, 12)
    weights = []
    for pair in (programs, (other, other_guide)):
        torch.manual_seed(3)
        weights.append(log_weights(*pair, (frames,), num_particles=4, max_plate_nesting=1).log_weight)
    assert torch.equal(*weights)


def test_every_object_is_new_in_every_frame(programs):
    objects = infer_objects(programs[1], torch.rand(T, B, 1, 12, 12))
    for b in range(B):
        ids = objects.id[:, b][objects.pres[:, b] > 0].tolist()
        assert ids == list(range(len(ids)))


def test_number_of_objects_is_geometric():
    """p(D) is proportional to 0.3^D for D = 0 ... N, in every frame."""
    model, _ = AIRSystem(8, success=0.3).programs(SCENE)
    for first in (True, False):
        logits = model.discovery_prior.count(no_objects(1, SCENE, torch.empty(0)), first)
        torch.testing.assert_close(logits, torch.tensor(0.3).log() * torch.arange(N + 1))


@pytest.mark.parametrize("success", [0.0, -0.1, 1.5])
def test_success_is_a_probability(success):
    with pytest.raises(ValueError, match="expected success above 0 and at most 1"):
        GeometricCount(success)
