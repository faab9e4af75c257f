# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Convolutional encoders and decoders: sizes, any batch shape, and CONV-SQAIR's numbers."""

import dataclasses

import pytest
import torch
from torch import nn

from pyro_sqair.guides import SQAIRGuide, conv_vision
from pyro_sqair.infer import VIMCO, check_sites
from pyro_sqair.models import SQAIR, conv_renderer
from pyro_sqair.nn.convolutions import (
    ConvolutionConfig,
    ConvolutionEncoder,
    ConvolutionStack,
    SubPixelDecoder,
    pedestrian_convolutions,
)
from pyro_sqair.nn.networks import SetEncoder
from pyro_sqair.scene.objects import SceneConfig


def num_parameters(*modules: nn.Module) -> int:
    return sum(p.numel() for p in {p for module in modules for p in module.parameters()})


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(20, 20), (50, 50), (28, 12), (7, 33), (1, 1)])
@pytest.mark.parametrize("strides", [(2, 2, 1, 1), (2, 2, 2, 1), (3, 1)])
def test_stack_has_the_features_it_says(size, channels, strides):
    stack = ConvolutionStack(channels, (4,) * len(strides), strides)
    assert stack(torch.rand(2, channels, *size)).flatten(1).shape == (2, stack.features(size))


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_encoder_and_decoder_take_any_batch_shape(batch):
    encoder = ConvolutionEncoder(ConvolutionStack(2, (4, 4), (2, 1)), 2, (6, 4), 5)
    images = torch.rand(*batch, 2, 6, 4)
    features = encoder(images.flatten(-3))
    assert features.shape == (*batch, 5)
    config = ConvolutionConfig(decoder_start=(3, 2), decoder_start_maps=4, decoder_maps=(4,), decoder_strides=(2,))
    decoder = SubPixelDecoder(3, 2, (6, 4), config)
    glimpses = decoder(torch.randn(*batch, 3))
    assert glimpses.shape == (*batch, 48)
    if batch == (2, 3):  # each by itself, as in one batch
        torch.testing.assert_close(encoder(images[1, 2].flatten()), features[1, 2])


def test_encoders_share_the_stack_and_nothing_else():
    scene = SceneConfig(2, 3)
    vision = conv_vision(scene, 8)
    image, glimpse = vision.image, vision.glimpse.features
    assert image.stack is glimpse.stack and image.output is not glimpse.output


class TestPublishedSizes:
    def programs(self, scene: SceneConfig, config: ConvolutionConfig) -> tuple[SQAIR, SQAIRGuide]:
        encoder = SetEncoder(scene.what_dim, 128)
        renderer = conv_renderer(scene, config)
        return SQAIR.build(scene, 128, encoder, renderer=renderer), SQAIRGuide.build(
            scene, 128, encoder, conv_vision(scene, 128, config)
        )

    def test_moving_mnist(self):
        """The paper says 2.6M; ours are 2.70M, and docs/model.md says why."""
        model, guide = self.programs(SceneConfig(), ConvolutionConfig())
        assert num_parameters(model, guide) == 2_696_819
        # [256, 800] units, 32 maps of 5 x 5, then layers that make 32, 4 x 64 and 4 x 64 maps, and the pixels
        dense = (50 + 1) * 256 + (256 + 1) * 800
        layers = (32 * 9 + 1) * 32 + (32 * 9 + 1) * 256 + (64 * 9 + 1) * 256 + (64 * 9 + 1)
        assert num_parameters(model.renderer.decoder) == dense + layers

    def test_pedestrians(self):
        scene = SceneConfig(image_size=(64, 64), glimpse_size=(28, 12))
        model, guide = self.programs(scene, pedestrian_convolutions())
        assert num_parameters(model, guide) == 1_744_143
        check_sites(model, guide, torch.rand(2, 1, 1, 64, 64))


@pytest.mark.parametrize(
    "scene",
    [
        SceneConfig(2, 3, channels=3, image_size=(24, 40), glimpse_size=(8, 12)),
        SceneConfig(2, 3, channels=1, image_size=(33, 17), glimpse_size=(8, 12)),
    ],
)
def test_any_size_and_colour_and_everything_learns(scene):
    config = ConvolutionConfig((4, 8), (2, 1), 8, (4, 6), 4, (4,), (2,))
    guide = SQAIRGuide.build(scene, 8, vision=conv_vision(scene, 8, config))
    model = SQAIR.build(scene, 8, renderer=conv_renderer(scene, config))
    frames = torch.rand(3, 4, scene.channels, *scene.image_size)
    check_sites(model, guide, frames)
    objective = VIMCO(3)(model, guide)
    objective(frames).backward()
    for part in (guide.discovery.image_encoder, guide.discovery.glimpse_encoder, model.renderer):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


class TestBadSizes:
    def test_a_decoder_that_does_not_reach_the_glimpse(self):
        with pytest.raises(ValueError, match=r"glimpses of \(21, 20\) pixels, got one that makes \(20, 20\).*\(5, 5\)"):
            conv_renderer(SceneConfig(glimpse_size=(21, 20)))

    @pytest.mark.parametrize(
        "change",
        [{"encoder_maps": (8,)}, {"decoder_strides": (2, 2)}, {"decoder_maps": ()}, {"encoder_strides": (2, 2, 0, 1)}],
    )
    def test_lists_that_do_not_fit(self, change):
        with pytest.raises(ValueError, match="expected"):
            dataclasses.replace(ConvolutionConfig(), **change)
