# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Glimpses: what is cropped, masked and encoded."""

import pytest
import torch
import torch.nn.functional as F

from pyro_sqair.guides import mlp_vision
from pyro_sqair.scene.objects import SceneConfig
from pyro_sqair.scene.spatial import crop

D, GLIMPSE = 3, (4, 6)


@pytest.mark.parametrize("batch", [(5,), (2, 5), (3, 2, 5)])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_encoder(batch, channels, masked):
    scene = SceneConfig(what_dim=D, channels=channels, image_size=(9, 12), glimpse_size=GLIMPSE)
    encoder = mlp_vision(scene, 8).glimpse
    frame, where = torch.rand(5, channels, 9, 12), torch.randn(*batch, 4)
    mask = torch.rand(*batch, 24) if masked else None
    appearance = encoder(frame, where, mask)
    glimpse = crop(frame, where, GLIMPSE)
    if masked:  # one mask for all channels
        glimpse = glimpse * mask.reshape(*batch, 1, *GLIMPSE)
    loc, scale = encoder.what(encoder.features(glimpse.reshape(*batch, -1))).chunk(2, -1)
    assert appearance.loc.shape == appearance.scale.shape == (*batch, D)
    torch.testing.assert_close(appearance.loc, loc)
    torch.testing.assert_close(appearance.scale, F.softplus(scale) + 0.01)
