# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The renderer compared with a sum of glimpses that are written one at a time."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from pyro_sqair.models import Renderer, mlp_renderer
from pyro_sqair.scene.objects import Objects, SceneConfig
from pyro_sqair.scene.spatial import scale_and_shift

N, D = 3, 2
SCENE = SceneConfig(num_slots=N, what_dim=D, channels=2, image_size=(10, 12), glimpse_size=(4, 6))


def renderer() -> Renderer:
    result = mlp_renderer(SCENE, 8).double()
    torch.nn.init.uniform_(result.mean_image)
    return result


def objects_of(pres: torch.Tensor) -> Objects:
    where, what = (torch.randn(*pres.shape, size).double() for size in (4, D))
    return Objects(pres.double(), where, what, torch.where(pres > 0, torch.arange(N), -1))


def slow_render(renderer: Renderer, objects: Objects) -> torch.Tensor:
    """One image, object by object, with the inverse transform and `grid_sample`."""
    image = torch.zeros(1, 2, *SCENE.image_size).double()
    written = torch.zeros(1, 1, *SCENE.image_size).double()
    for i in range(N):
        if objects.pres[i] == 0:
            continue
        scale, shift = scale_and_shift(objects.where[i])
        theta = torch.cat([torch.diag(1 / scale), (-shift / scale).unsqueeze(-1)], -1)
        grid = F.affine_grid(theta.unsqueeze(0), [1, 2, *SCENE.image_size], align_corners=False)
        glimpse = (renderer.decoder(objects.what[i]) * renderer.scale).reshape(1, 2, *SCENE.glimpse_size)
        image += F.grid_sample(glimpse, grid, align_corners=False)
        written += F.grid_sample(torch.ones_like(glimpse[:, :1]), grid, align_corners=False)
    return (image + renderer.mean_image * torch.sigmoid(20 * written - 10)).squeeze(0)


@pytest.mark.parametrize("batch", [(6,), (2, 6), (2, 2, 6)])
def test_sum_of_glimpses(batch):
    program = renderer()
    objects = objects_of(torch.arange(N) < torch.randint(0, N + 1, (*batch, 1)))
    result = program(objects)
    assert result.shape == (*batch, 2, 10, 12)
    for b in itertools.product(*map(range, batch)):
        single = Objects(*(field[b] for field in objects))
        torch.testing.assert_close(result[b], slow_render(program, single))


def test_output_scale_is_a_parameter():
    assert mlp_renderer(SCENE, 8).scale == 0.25
    program = mlp_renderer(SCENE, 8, output_scale=2.0, std=0.1)
    assert isinstance(program.scale, torch.nn.Parameter)
    assert program.scale == 2.0
    assert program.std == 0.1
    what = torch.randn(5, D)
    torch.testing.assert_close(program.glimpses(what).flatten(-3), 2 * program.decoder(what))


def test_standard_deviation_is_positive():
    with pytest.raises(ValueError, match="expected a positive standard deviation, got 0.0"):
        mlp_renderer(SCENE, 8, std=0.0)
