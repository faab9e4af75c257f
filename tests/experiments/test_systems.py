# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""What a system is made of follows its settings, and the settings tell systems apart."""

import json

import pytest

from pyro_sqair.experiments.systems import GuidedWalk, Interaction, Memory, RandomWalk, Recurrent, SQAIRSystem
from pyro_sqair.models import GRUPropagationPrior, GuidedWalkPrior, RandomWalkPrior
from pyro_sqair.scene.objects import SceneConfig

SCENE = SceneConfig(num_slots=2, what_dim=3, image_size=(12, 12), glimpse_size=(6, 6))


@pytest.mark.parametrize(
    ("dynamics", "prior"),
    [(Recurrent, GRUPropagationPrior), (RandomWalk, RandomWalkPrior), (GuidedWalk, GuidedWalkPrior)],
)
@pytest.mark.parametrize("relations", [None, Interaction(), Memory()])
def test_dynamics(dynamics, prior, relations):
    model, guide = SQAIRSystem(8, propagation=dynamics(-2.0), relations=relations).programs(SCENE)
    assert type(model.propagation_prior) is prior
    assert model.propagation_prior.readout.bias[-7:].mean().item() == pytest.approx(-2.0, abs=0.4)
    if relations is not None:
        assert model.propagation_prior.relations is guide.propagation.relations


def test_settings_tell_systems_apart():
    dynamics = (Recurrent(), RandomWalk(), GuidedWalk(), GuidedWalk(-3.0))
    systems = [SQAIRSystem(8, propagation=d, relations=r) for d in dynamics for r in (None, Interaction(), Memory())]
    assert len({json.dumps(system.settings(), sort_keys=True) for system in systems}) == len(systems)
