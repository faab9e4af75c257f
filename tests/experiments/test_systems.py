# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""What a system is made of follows its settings, and the settings tell systems apart."""

import pytest

from pyro_sqair.experiments.systems import SQAIRSystem
from pyro_sqair.models import (
    GRUPriorConfig,
    GRUPropagationPrior,
    GuidedWalkConfig,
    GuidedWalkPrior,
    RandomWalkConfig,
    RandomWalkPrior,
)
from pyro_sqair.nn.relations import InteractionConfig, MemoryCoreConfig
from pyro_sqair.scene.objects import SceneConfig

SCENE = SceneConfig(num_slots=2, what_dim=3, image_size=(12, 12), glimpse_size=(6, 6))


@pytest.mark.parametrize(
    ("dynamics", "prior"),
    [(GRUPriorConfig, GRUPropagationPrior), (RandomWalkConfig, RandomWalkPrior), (GuidedWalkConfig, GuidedWalkPrior)],
)
@pytest.mark.parametrize("relations", [None, InteractionConfig(), MemoryCoreConfig()])
def test_dynamics(dynamics, prior, relations):
    model, guide = SQAIRSystem(8, propagation=dynamics(-2.0), relations=relations).programs(SCENE)
    assert type(model.propagation_prior) is prior
    assert model.propagation_prior.readout.bias[-7:].mean().item() == pytest.approx(-2.0, abs=0.4)
    if relations is not None:
        assert model.propagation_prior.relations is guide.propagation.relations
