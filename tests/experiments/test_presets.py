# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Every preset makes a model, a guide and data that fit together."""

import dataclasses
import json

import pytest
import torch

from pyro_sqair.experiments.presets import PRESETS, preset
from pyro_sqair.experiments.systems import AIRSystem, SQAIRSystem, VRNNSystem
from pyro_sqair.infer import check_sites
from pyro_sqair.models import CategoricalCount, FixedCount, GuidedWalkConfig
from pyro_sqair.nn.convolutions import ConvolutionConfig
from pyro_sqair.nn.relations import InteractionConfig


@pytest.mark.parametrize("name", sorted(PRESETS))
class TestEveryPreset:
    def test_programs_fit(self, name):
        chosen = preset(name)
        model, guide = chosen.programs()
        scene = chosen.scene
        assert chosen.name == name
        assert model.scene == guide.scene == scene
        if chosen.system.name == "sqair":
            assert guide.discovery.encoder is model.discovery_prior.encoder
        check_sites(model, guide, torch.rand(2, 1, scene.channels, *scene.image_size))

    def test_count_prior(self, name):
        chosen = preset(name)
        if chosen.system.name != "sqair":
            return
        count = chosen.programs()[0].discovery_prior.count
        assert chosen.has_fixed_count_prior == (chosen.system.object_costs is not None)
        if chosen.has_fixed_count_prior:
            assert isinstance(count, FixedCount)
            assert count.costs == chosen.system.object_costs
        else:
            assert isinstance(count, CategoricalCount)

    def test_identity_is_json(self, name):
        identity = preset(name).identity()
        assert json.loads(json.dumps(identity))["scene"]["what_dim"] == preset(name).scene.what_dim

    def test_programs_are_made_anew(self, name):
        first, second = preset(name).programs()[0], preset(name).programs()[0]
        assert not set(first.parameters()) & set(second.parameters())


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


def test_decoder_of_its_own_size():
    system = SQAIRSystem(hidden_size=8, decoder_size=24, output_scale=0.5)
    model, guide = system.programs(preset("embedded-digits").scene)
    assert model.renderer.decoder[0].out_features == 24
    assert model.renderer.scale == 0.5
    assert guide.discovery.where[0].out_features == 8


@pytest.mark.parametrize("split", ["train", "test"])
def test_embedded_digits_fit_the_programs(split):
    chosen = preset("embedded-digits")
    source = chosen.source(split)
    batch = source.sample(3, 2, torch.Generator().manual_seed(0))
    scene = chosen.scene
    assert batch.frames.shape == (2, 3, scene.channels, *scene.image_size)
    assert batch.count.max() <= scene.num_slots
    model, guide = chosen.programs()
    check_sites(model, guide, batch.frames)


def test_mnist_fits_the_programs(mnist_dir):
    chosen = preset("moving-mnist")
    batch = chosen.source("test", mnist=mnist_dir).sample(2, 2, torch.Generator().manual_seed(0))
    check_sites(*chosen.programs(), batch.frames)


@pytest.mark.parametrize("name", ["nonesuch", ""])
def test_unknown_preset(name):
    with pytest.raises(ValueError, match=f"expected a preset among .*embedded-digits.* got '{name}'"):
        preset(name)
