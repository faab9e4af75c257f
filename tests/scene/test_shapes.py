# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""`batch_shape` is `torch.broadcast_shapes`, only faster."""

import itertools

import pytest
import torch

from pyro_sqair.scene.shapes import batch_shape

SHAPES = [torch.Size(s) for s in [(), (1,), (3,), (2, 3), (2, 1), (1, 3), (5, 2, 3), (5, 1, 1)]]


@pytest.mark.parametrize("shapes", [*itertools.combinations_with_replacement(SHAPES, 2), SHAPES, SHAPES[::-1]])
def test_same_as_torch(shapes):
    result = batch_shape(*shapes)
    assert result == torch.broadcast_shapes(*shapes)
    assert isinstance(result, torch.Size)


@pytest.mark.parametrize("shapes", [[(3,), (2,)], [(2, 3), (3, 3)], [(2, 3), (2,)]])
def test_shapes_that_do_not_broadcast(shapes):
    with pytest.raises(RuntimeError):
        batch_shape(*map(torch.Size, shapes))
