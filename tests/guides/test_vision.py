# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Glimpses: what is cropped, masked and encoded."""

import pytest
import torch
import torch.nn.functional as F

from pyro_sqair.guides import GlimpseMask, mlp_glimpse_encoder
from pyro_sqair.scene.spatial import crop

D, GLIMPSE = 3, (4, 6)


@pytest.mark.parametrize("batch", [(5,), (2, 5), (3, 2, 5)])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_encoder(batch, channels, masked):
    encoder = mlp_glimpse_encoder(D, 8, channels, GLIMPSE)
    frame, where = torch.rand(5, channels, 9, 12), torch.randn(*batch, 4)
    mask = torch.rand(*batch, 24) if masked else None
    seen = encoder(frame, where, mask)
    glimpse = crop(frame, where, GLIMPSE)
    if masked:  # one mask for all channels
        glimpse = glimpse * mask.reshape(*batch, 1, *GLIMPSE)
    loc, scale = encoder.what(encoder.features(glimpse.reshape(*batch, -1))).chunk(2, -1)
    assert seen.loc.shape == seen.scale.shape == (*batch, D)
    torch.testing.assert_close(seen.loc, loc)
    torch.testing.assert_close(seen.scale, F.softplus(scale) + 0.01)


def test_what_is_outside_the_box_is_not_seen():
    encoder = mlp_glimpse_encoder(D, 8, 1, GLIMPSE)
    where = torch.tensor([[-2.0, -2.0, 0.0, 0.0]])  # the middle
    frame = torch.rand(1, 1, 20, 20)
    other = torch.rand(1, 1, 20, 20)
    other[..., 6:14, 6:14] = frame[..., 6:14, 6:14]
    assert torch.equal(encoder(frame, where).loc, encoder(other, where).loc)
    assert not torch.equal(encoder(frame, where).loc, encoder(1 - frame, where).loc)


def test_gradient_reaches_where():
    encoder = mlp_glimpse_encoder(D, 8, 1, GLIMPSE)
    where = torch.zeros(5, 4, requires_grad=True)
    encoder(torch.rand(5, 1, 9, 12), where).loc.sum().backward()
    assert (where.grad != 0).all()


def test_mask_lies_between_zero_and_one_and_starts_open():
    mask = GlimpseMask(8, GLIMPSE)
    values = mask(torch.randn(2, 5, 8))
    assert values.shape == (2, 5, 24)
    assert ((values > 0) & (values < 1)).all()
    assert (mask[-1].bias == 1).all()
    mask[-1].weight.data.zero_()
    torch.testing.assert_close(mask(torch.randn(8)), torch.tensor(1.0).sigmoid().expand(24))
