# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The model, guide and data of every preset fit together, and the parts of a system follow its settings."""

import dataclasses
import math

import pytest
import torch

from pyro_sqair.experiments.presets import PRESETS, preset
from pyro_sqair.experiments.systems import AIRSystem, SQAIRSystem, VRNNSystem
from pyro_sqair.experiments.videos import DigitVideos
from pyro_sqair.infer import check_sites
from pyro_sqair.models import (
    CategoricalCount,
    FixedCount,
    GRUPriorConfig,
    GRUPropagationPrior,
    GuidedWalkConfig,
    GuidedWalkPrior,
    RandomWalkConfig,
    RandomWalkPrior,
)
from pyro_sqair.nn.backbone import VRNNConfig
from pyro_sqair.nn.convolutions import ConvolutionConfig
from pyro_sqair.nn.relations import InteractionConfig, MemoryCoreConfig


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_programs_of_every_preset(name):
    chosen = preset(name)
    model, guide = chosen.programs()
    scene = chosen.scene
    assert chosen.name == name
    assert model.scene == guide.scene == scene
    if isinstance(chosen.system, SQAIRSystem):
        assert guide.discovery.encoder is model.discovery_prior.encoder
        assert chosen.has_fixed_count_prior == (chosen.system.object_costs is not None)
        count = model.discovery_prior.count
        if chosen.has_fixed_count_prior:
            assert isinstance(count, FixedCount) and count.costs == chosen.system.object_costs
        else:
            assert isinstance(count, CategoricalCount)
    check_sites(model, guide, torch.rand(2, 1, scene.channels, *scene.image_size))
    assert not set(model.parameters()) & set(chosen.programs()[0].parameters())  # new parameters in each call


def test_identity_tells_models_apart():
    base = preset("embedded-digits")
    systems = [
        dataclasses.replace(base.system, **change)
        for change in (
            {"hidden_size": 64},
            {"decoder_size": 64},
            {"object_costs": None},
            {"convolutions": ConvolutionConfig()},
            {"relations": InteractionConfig()},
            {"propagation": GuidedWalkConfig()},
        )
    ]
    changes = [{"system": system} for system in [*systems, AIRSystem(128), VRNNSystem()]]
    scenes = [dataclasses.replace(base.scene, **change) for change in ({"num_slots": 3}, {"object_size": (9.0, 9.0)})]
    for change in [*changes, *({"scene": scene} for scene in scenes)]:
        assert dataclasses.replace(base, **change).identity() != base.identity(), change
    assert dataclasses.replace(base, name="other").identity() == base.identity()


@pytest.mark.parametrize(
    ("dynamics", "prior"),
    [(GRUPriorConfig, GRUPropagationPrior), (RandomWalkConfig, RandomWalkPrior), (GuidedWalkConfig, GuidedWalkPrior)],
)
@pytest.mark.parametrize("relations", [None, InteractionConfig(), MemoryCoreConfig()])
def test_propagation_prior_and_relations(dynamics, prior, relations):
    system = SQAIRSystem(8, propagation=dynamics(-2.0), relations=relations)
    model, guide = system.programs(preset("embedded-digits").scene)
    assert type(model.propagation_prior) is prior
    assert model.propagation_prior.readout.bias[-7:].mean().item() == pytest.approx(-2.0, abs=0.4)
    if relations is not None:
        assert model.propagation_prior.relations is guide.propagation.relations


def test_decoder_of_its_own_size():
    system = SQAIRSystem(hidden_size=8, decoder_size=24, output_scale=0.5)
    model, guide = system.programs(preset("embedded-digits").scene)
    assert model.renderer.decoder[0].out_features == 24
    assert model.renderer.scale == 0.5
    assert guide.discovery.where[0].out_features == 8


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", ["embedded-digits", "moving-mnist"])
def test_digits_fit_the_programs(name, split, request):
    chosen = preset(name)
    mnist_dir = request.getfixturevalue("mnist_dir") if name == "moving-mnist" else None
    batch = chosen.source(split, mnist=mnist_dir).sample(3, 2, torch.Generator().manual_seed(0))
    assert batch.frames.shape == (2, 3, chosen.scene.channels, *chosen.scene.image_size)
    assert batch.count.max() <= chosen.scene.num_slots
    check_sites(*chosen.programs(), batch.frames)


@pytest.mark.parametrize(
    ("system", "settings", "message"),
    [
        *((kind, {"hidden_size": size}, f"hidden_size from 1 to 4096, got {size}")
          for kind in (SQAIRSystem, AIRSystem) for size in (0, -1, 4097, 10**30)),
        (SQAIRSystem, {"decoder_size": 0}, "decoder_size from 1 to 4096, got 0"),
        (AIRSystem, {"output_scale": math.nan}, "a finite output_scale, got nan"),
        (AIRSystem, {"success": 0.0}, "success above 0 and at most 1, got 0.0"),
        *((SQAIRSystem, {"object_costs": costs}, rf"costs of objects from 0 to 1e6 nats, got {costs[0]} and {costs[1]}")
          for costs in ((-1.0, 5.0), (5.0, math.nan), (math.inf, 5.0), (2e6, 0.0))),
        (VRNNConfig, {"std": math.inf}, "a positive, finite standard deviation, got inf"),
    ],
)  # fmt: skip
def test_invalid_settings_of_systems(system, settings, message):
    with pytest.raises(ValueError, match=f"expected {message}"):
        system(**settings)


def test_unknown_digits():
    with pytest.raises(ValueError, match="expected digits 'embedded' or 'mnist', got 'letters'"):
        DigitVideos("letters")


@pytest.mark.parametrize("name", ["nonesuch", ""])
def test_unknown_preset(name):
    with pytest.raises(ValueError, match=f"expected a preset among .*embedded-digits.* got '{name}'"):
        preset(name)
