# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The complete guide: number of parameters by part, sites, memory and gradients."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_sqair.experiments import SQAIRSystem
from pyro_sqair.guides import PropagationGuide, SQAIRGuide, WholeImage
from pyro_sqair.infer import VIMCO, check_sites
from pyro_sqair.infer.log_weights import log_weights
from pyro_sqair.models import SQAIR
from pyro_sqair.scene.objects import SceneConfig

N, D, T, B = 3, 2, 5, 6
SCENE = SceneConfig(num_slots=N, what_dim=D, image_size=(12, 12), glimpse_size=(6, 6))


def programs(stay: float = 0.0, find: float = 1.0) -> tuple[SQAIR, SQAIRGuide]:
    """A small model and guide; `stay` and `find` are the initial logits of presence."""
    model, guide = SQAIRSystem(8).programs(SCENE)
    nn.init.constant_(guide.propagation.pres[-1].bias, stay)
    nn.init.constant_(guide.discovery.pres[-1].bias, find)
    return model, guide


def video(length: int = T, batch: int = B) -> Tensor:
    return torch.rand(length, batch, 1, 12, 12)


def size(*parts: nn.Module | nn.Parameter) -> int:
    tensors = (p for part in parts for p in (part.parameters() if isinstance(part, nn.Module) else [part]))
    return sum(p.numel() for p in tensors)


class TestParameters:
    def test_numbers_by_part(self):
        """MLP-SQAIR as released: 256 units, D=50, N=3, 50x50 images, 20x20 glimpses (Kosiorek et al. 2018)."""
        second_bias = 3 * 256  # `nn.GRUCell` has two biases per gate, the released GRU has one
        model, guide = SQAIRSystem().programs(SceneConfig())
        discovery, propagation, renderer = guide.discovery, guide.propagation, model.renderer
        prior, dynamics = model.discovery_prior, model.propagation_prior
        counts = {
            "image encoder": (size(discovery.image_encoder), 706_048),
            "glimpse encoder": (size(discovery.glimpse_encoder.features), 168_448),
            "glimpse encoder, head": (size(discovery.glimpse_encoder.what), 25_700),
            "glimpse mask": (size(propagation.mask), 84_496),
            "decoder": (size(renderer.decoder), 181_648),
            "decoder, scale": (size(renderer.scale), 1),
            "mean image": (size(renderer.mean_image), 2_500),
            # without initial states, which are counted below
            "discovery RNN": (size(discovery.rnn.input, discovery.rnn.hidden), 211_456),
            "discovery where": (size(discovery.where, discovery.scale_bias), 133_641),
            "discovery presence": (size(discovery.pres), 39_425),
            "latent encoder": (size(discovery.encoder), 79_872),
            "relation RNN": (size(propagation.relation.input, propagation.relation.hidden), 172_544),
            "propagation where": (size(propagation.where, propagation.scale_bias), 200_201),
            "propagation where, factor": (size(propagation.factor), 10),
            "propagation presence": (size(propagation.pres), 72_193),
            "proposal": (size(propagation.view.proposal), 33_412),
            "temporal GRU": (size(propagation.temporal), 473_856 + second_bias),
            "temporal what": (size(propagation.what.expected), 25_700),
            "temporal what, gates": (size(propagation.what.gates), 38_550),
            "prior GRU": (size(dynamics.gru), 238_848 + second_bias),
            "prior readout": (size(dynamics.readout), 28_013),
            "where prior": (size(prior.where), 34_120),
            "count prior": (size(prior.count), 72),
            "initial states": (
                size(discovery.rnn.initial, propagation.relation.initial, dynamics.initial_memory),
                3 * 256,
            ),
        }
        assert {part: pair for part, pair in counts.items() if pair[0] != pair[1]} == {}
        total = size(*{*model.parameters(), *guide.parameters()})
        assert total == sum(ours for ours, _ in counts.values()) == 2_951_522 + 2 * second_bias

    def test_shared_encoders(self):
        model, guide = programs()
        assert guide.discovery.glimpse_encoder is guide.propagation.glimpse_encoder
        assert guide.discovery.encoder is model.discovery_prior.encoder
        assert set(model.parameters()) & set(guide.parameters()) == set(guide.discovery.encoder.parameters())


class TestSites:
    def test_sites_are_those_of_the_model(self):
        """Within a slot `where`, `what` and then `pres`, which depends on both."""
        model, guide = programs(find=10.0)
        for _ in range(5):
            check_sites(model, guide, video())
        names = [n for n, s in poutine.trace(guide).get_trace(video(2)).nodes.items() if s["type"] == "sample"]
        assert names[:4] == ["sequences", "frame_0/disc_0/where", "frame_0/disc_0/what", "frame_0/disc_0/pres"]
        assert names[10:13] == ["frame_1/prop_0/where", "frame_1/prop_0/what", "frame_1/prop_0/pres"]

    def test_the_guide_needs_frames(self):
        _, guide = programs()
        assert len(guide(video(2), 7)) == 2  # only a model continues without frames
        with pytest.raises(ValueError, match="expected a frame .* step 3 of the guide, got None"):
            guide.step(3, guide.init(B))


def test_memory_follows_its_object():
    """Memory is zero for an object just discovered, and not zero for one that stays."""
    _, guide = programs(stay=10.0, find=0.0)
    states = guide(video(3, 40))
    for before, now in itertools.pairwise(states):
        present = now.objects.pres > 0
        stayed = (now.objects.id.unsqueeze(-1) == before.objects.id.unsqueeze(-2)).any(-1)[present]
        assert torch.equal((now.memory != 0).any(-1)[present], stayed)
        assert stayed.any() and not stayed.all()


class TestLearning:
    @pytest.mark.parametrize("whole_image", [False, True])
    def test_every_parameter_gets_a_finite_gradient(self, whole_image):
        model, guide = programs(stay=2.0, find=2.0)
        if whole_image:
            view = WholeImage(guide.discovery.image_encoder, 8)
            guide.propagation = PropagationGuide(guide.discovery.glimpse_encoder, 8, view=view)
        model, guide, frames = model.double(), guide.double(), video(3, 8).double()
        for parameter in dict.fromkeys((*model.parameters(), *guide.parameters())):
            with torch.no_grad():  # a weight of zero would block gradients
                parameter += 0.01 * torch.randn_like(parameter)
        loss = VIMCO(3)(model, guide)(frames)
        loss.backward()
        assert loss.isfinite()
        states = guide(frames)
        assert (states[-1].objects.num_present == N).any()
        for name, parameter in (*model.named_parameters(), *guide.named_parameters()):
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert (parameter.grad != 0).any(), name

    def test_empty_scenes(self):
        model, guide = programs(find=-100.0)
        loss = VIMCO(3)(model, guide)(video())
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in guide.parameters() if p.grad is not None)
        assert all((state.objects.pres == 0).all() for state in guide(video()))


def test_images_are_encoded_once_for_all_particles():
    model, guide = programs()
    shapes = []
    guide.discovery.image_encoder.register_forward_hook(lambda module, args, output: shapes.append(output.shape))
    particles = log_weights(model, guide, (video(),), num_particles=4, max_plate_nesting=1)
    assert particles.log_weight.shape == (4, B)
    assert shapes == [(B, 8)] * T


def test_a_guide_without_parameters():
    """Contract C4: the parts of a guide may be plain functions."""

    def draw(slots):
        for _ in slots:
            pyro.sample("where", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("what", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            pyro.sample("pres", dist.Bernoulli(torch.tensor(0.5)))

    guide = SQAIRGuide(lambda frame, propagated, slots: draw(slots), lambda frame, p, memory, slots: draw(slots), SCENE)
    model, _ = programs()
    check_sites(model, guide, video())
    assert log_weights(model, guide, (video(),), num_particles=2, max_plate_nesting=1).log_weight.isfinite().all()
