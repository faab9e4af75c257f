# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Convolutional encoders and decoders: sizes, batch shapes and gradients."""

import dataclasses

import pytest
import torch

from pyro_sqair.experiments.systems import SQAIRSystem
from pyro_sqair.guides import conv_vision
from pyro_sqair.infer import VIMCO, check_sites
from pyro_sqair.models import conv_renderer
from pyro_sqair.nn.convolutions import (
    ConvolutionConfig,
    ConvolutionEncoder,
    ConvolutionStack,
    SubPixelDecoder,
)
from pyro_sqair.scene.objects import SceneConfig

SMALL = ConvolutionConfig((4, 8), (2, 1), 8, (4, 6), 4, (4,), (2,))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(20, 20), (28, 12), (7, 33), (1, 1)])
@pytest.mark.parametrize("strides", [(2, 2, 1, 1), (2, 2, 2, 1), (3, 1)])
def test_number_of_features(size, channels, strides):
    stack = ConvolutionStack(channels, (4,) * len(strides), strides)
    assert stack(torch.rand(2, channels, *size)).flatten(1).shape == (2, stack.features(size))


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_batch_shapes(batch):
    encoder = ConvolutionEncoder(ConvolutionStack(2, (4, 4), (2, 1)), 2, (6, 4), 5)
    images = torch.rand(*batch, 2, 6, 4)
    features = encoder(images.flatten(-3))
    assert features.shape == (*batch, 5)
    decoder = SubPixelDecoder(SceneConfig(what_dim=3, channels=2, glimpse_size=(8, 12)), SMALL)
    assert decoder(torch.randn(*batch, 3)).shape == (*batch, 2 * 8 * 12)
    if batch == (2, 3):  # each image is encoded independently of the batch
        torch.testing.assert_close(encoder(images[1, 2].flatten()), features[1, 2])


def test_encoders_share_only_the_stack():
    vision = conv_vision(SceneConfig(2, 3), 8, SMALL)
    image, glimpse = vision.image, vision.glimpse.features
    assert image.stack is glimpse.stack and image.output is not glimpse.output


@pytest.mark.parametrize(("channels", "image_size"), [(3, (24, 40)), (1, (33, 17))])
def test_sizes_colours_and_gradients(channels, image_size):
    scene = SceneConfig(2, 3, channels, image_size, glimpse_size=(8, 12))
    model, guide = SQAIRSystem(8, convolutions=SMALL).programs(scene)
    frames = torch.rand(3, 4, channels, *image_size)
    check_sites(model, guide, frames)
    VIMCO(3)(model, guide)(frames).backward()
    for part in (guide.discovery.image_encoder, guide.discovery.glimpse_encoder, model.renderer):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


def test_decoder_for_another_glimpse_size():
    with pytest.raises(ValueError, match=r"glimpses of \(21, 20\) pixels, got one that makes \(20, 20\).*\(5, 5\)"):
        conv_renderer(SceneConfig(glimpse_size=(21, 20)), ConvolutionConfig())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder_maps": (8,)}, "as many encoder_strides as encoder_maps"),
        ({"decoder_strides": (2, 2)}, "as many decoder_strides as decoder_maps"),
        ({"decoder_maps": (), "decoder_strides": ()}, "at least one"),
        ({"encoder_strides": (2, 2, 0, 1)}, "sizes of at least 1"),
    ],
)
def test_bad_sizes(change, message):
    with pytest.raises(ValueError, match=f"expected .*{message}.* got"):
        dataclasses.replace(ConvolutionConfig(), **change)
