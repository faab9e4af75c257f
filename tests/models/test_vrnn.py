# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""VRNN: log weights compared with a direct computation, and dependencies between frames."""

import dataclasses
import math

import pytest
import torch
from pyro import poutine
from torch import Tensor
from torch.nn.functional import softplus

from pyro_sqair.guides import VRNNGuide
from pyro_sqair.infer import FIVO, check_sites
from pyro_sqair.infer.log_weights import log_weights
from pyro_sqair.infer.multi_sample import log_mean_exp
from pyro_sqair.models import VRNN
from pyro_sqair.nn.backbone import VRNNBackbone, VRNNConfig
from pyro_sqair.nn.convolutions import MirroredDecoder
from pyro_sqair.scene.objects import SceneConfig
from pyro_sqair.tracking.rollout import generate, predict

T, B = 4, 3
SCENE = SceneConfig(1, 1, image_size=(9, 7), glimpse_size=(4, 4))
SMALL = VRNNConfig(latent_dim=3, hidden_size=6, hidden_layers=1)
CONFIGS = {"mlp": SMALL, "conv": dataclasses.replace(SMALL, maps=(2, 3), strides=(2, 2))}


@pytest.fixture(params=CONFIGS)
def programs(request: pytest.FixtureRequest) -> tuple[VRNN, VRNNGuide]:
    backbone = VRNNBackbone(SCENE, CONFIGS[request.param])
    return VRNN(backbone), VRNNGuide(backbone)


def video() -> Tensor:
    return torch.rand(T, B, 1, 9, 7)


def normal(x: Tensor, loc: Tensor, scale: Tensor | float) -> Tensor:
    scale = torch.as_tensor(scale, dtype=x.dtype)
    return (-0.5 * ((x - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)).flatten(2).sum(-1)


def test_log_weight(programs):
    """One LSTM over the draws of the guide, with all densities written out."""
    model, guide = (program.double() for program in programs)
    frames = video().double()
    trace = poutine.trace(guide).get_trace(frames)
    weight = log_weights(
        model, poutine.replay(guide, trace=trace), (frames,), num_particles=1, max_plate_nesting=1
    ).log_weight
    backbone, size = model.backbone, SMALL.hidden_size
    hidden, cell, image_features, latent_features = (torch.zeros(B, size).double() for _ in range(4))
    expected = torch.zeros(1, B).double()
    for t in range(T):
        hidden, cell = backbone.lstm(torch.cat([image_features, latent_features], -1), (hidden, cell))
        z, flat = trace.nodes[f"frame_{t}/z"]["value"], frames[t].flatten(1)
        loc, scale = model.prior(hidden).chunk(2, -1)
        image_features = backbone.encode_image(flat)
        features = torch.cat([hidden, image_features], -1)
        q_loc, q_scale = guide.loc(features), softplus(guide.scale(features)) + 0.01
        latent_features = backbone.encode_latents(z)
        mean = model.decoder(torch.cat([latent_features, hidden], -1))
        expected += normal(z[None], loc, softplus(scale) + 0.01) - normal(z[None], q_loc, q_scale)
        expected += normal(flat[None], mean, 0.3)
    torch.testing.assert_close(weight, expected)


def test_fivo_gives_every_parameter_a_gradient(programs):
    frames = video()
    check_sites(*programs, frames)
    objective = FIVO(4)(*programs)
    objective(frames).backward()
    assert [n for n, p in objective.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_without_resampling_fivo_is_the_importance_weighted_bound(programs):
    frames = video()
    torch.manual_seed(4)
    filtered = -torch.tensor(FIVO(5, threshold=0.0).loss(*programs, frames))
    torch.manual_seed(4)
    weights = log_weights(*programs, (frames,), num_particles=5, max_plate_nesting=1).log_weight
    torch.testing.assert_close(filtered, log_mean_exp(weights).sum())


def test_prior_of_a_frame_depends_on_earlier_frames_only(programs):
    frames = video()
    trace = poutine.trace(programs[1]).get_trace(frames)
    other = frames.clone()
    other[2] = 1 - other[2]
    means = []
    for data in (frames, other):
        nodes = poutine.trace(poutine.replay(programs[0], trace=trace)).get_trace(data).nodes
        means.append([nodes[f"frame_{t}/z"]["fn"].mean for t in range(T)])
    same = [torch.equal(a, b) for a, b in zip(*means, strict=True)]
    assert same == [True, True, True, False]


def test_generates_and_predicts(programs):
    frames = video()
    assert generate(programs[0], frames, 6).image.shape == (6, B, 1, 9, 7)
    rollout = predict(*programs, frames[:2], 5)
    assert rollout.image.shape == (5, B, 1, 9, 7) and rollout.image.isfinite().all()
    assert not rollout.objects.pres.any()


@pytest.mark.parametrize("size", [(50, 50), (9, 7), (13, 28), (1, 1)])
@pytest.mark.parametrize("strides", [(1, 2, 1, 2, 1, 2), (3, 2, 2, 1, 1, 1)])
def test_mirrored_decoder_makes_images_of_any_size(size, strides):
    decoder = MirroredDecoder(5, 3, size, (2, 2, 2, 3, 3, 3), strides)
    assert decoder(torch.randn(2, 4, 5)).shape == (2, 4, 3 * size[0] * size[1])


@pytest.mark.parametrize(
    "change", [{"latent_dim": 0}, {"hidden_layers": 0}, {"maps": (3,)}, {"std": 0.0}, {"maps": (0,), "strides": (1,)}]
)
def test_bad_sizes(change):
    with pytest.raises(ValueError, match="expected"):
        dataclasses.replace(SMALL, **change)
