# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""A small model, its guide and random video."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pyro_sqair.experiments import SQAIRSystem
from pyro_sqair.guides import SQAIRGuide
from pyro_sqair.models import SQAIR
from pyro_sqair.scene.objects import SceneConfig


@pytest.fixture
def programs() -> tuple[SQAIR, SQAIRGuide]:
    """A model and a guide in which objects come and go, with little influence of the frames."""
    scene = SceneConfig(num_slots=3, what_dim=2, image_size=(12, 14), glimpse_size=(6, 6))
    model, guide = SQAIRSystem(8, object_costs=(0.0, 0.5)).programs(scene)
    model.discovery_prior.count.costs = (-2.0, 0.5)  # favours objects in the first frame
    model.propagation_prior.presence_bias, model.renderer.std = 2.0, 2.0
    nn.init.ones_(guide.propagation.pres[-1].bias)
    with torch.no_grad():  # as broad as the prior, otherwise every object reduces the weight
        guide.discovery.scale_bias.fill_(0.5)
        guide.propagation.scale_bias.fill_(0.5)
    return model, guide


@pytest.fixture
def frames() -> Tensor:
    return torch.rand(5, 4, 1, 12, 14)
