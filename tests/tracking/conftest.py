# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""A small model, its guide and random video."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pyro_sqair.guides import SQAIRGuide
from pyro_sqair.models import SQAIR, DiscoveryPrior, FixedCount, GRUPropagationPrior, mlp_renderer
from pyro_sqair.nn.networks import SetEncoder
from pyro_sqair.scene.objects import SceneConfig


@pytest.fixture
def programs() -> tuple[SQAIR, SQAIRGuide]:
    """A model and a guide in which objects come and go, with little influence of the frames."""
    scene = SceneConfig(num_slots=3, what_dim=2, image_size=(12, 14), glimpse_size=(6, 6))
    discovery = DiscoveryPrior(3, 2, SetEncoder(2, 8), FixedCount(-2.0, 0.5))
    model = SQAIR(discovery, GRUPropagationPrior(2, 8, presence_bias=2.0), mlp_renderer(scene, 8, std=2.0), scene)
    guide = SQAIRGuide.build(scene, 8)
    nn.init.ones_(guide.propagation.pres[-1].bias)
    with torch.no_grad():  # as broad as the prior, otherwise every object reduces the weight
        guide.discovery.scale_bias.fill_(0.5)
        guide.propagation.scale_bias.fill_(0.5)
    return model, guide


@pytest.fixture
def frames() -> Tensor:
    return torch.rand(5, 4, 1, 12, 14)
