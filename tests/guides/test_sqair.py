# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The guide as a whole: its size by part, its sites, who may be present, and that everything in it learns."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_sqair.guides import SQAIRGuide
from pyro_sqair.infer import VIMCO, check_sites
from pyro_sqair.infer.log_weights import log_weights
from pyro_sqair.models import SQAIR
from pyro_sqair.nn.networks import SetEncoder
from pyro_sqair.scene.objects import SceneConfig, stack_objects

N, D, T, B = 3, 2, 5, 6
SCENE = SceneConfig(num_slots=N, what_dim=D, image_size=(12, 12), glimpse_size=(6, 6))


def programs(stay: float = 0.0, find: float = 1.0) -> tuple[SQAIR, SQAIRGuide]:
    """A small model and guide that share their encoder; `stay` and `find` are the guide's first presence logits."""
    encoder = SetEncoder(D, 8)
    model, guide = SQAIR.build(SCENE, 8, encoder), SQAIRGuide.build(SCENE, 8, encoder)
    nn.init.constant_(guide.propagation.pres[-1].bias, stay)
    nn.init.constant_(guide.discovery.pres[-1].bias, find)
    return model, guide


def video(length: int = T, batch: int = B) -> Tensor:
    return torch.rand(length, batch, 1, 12, 12)


def size(*parts: nn.Module | nn.Parameter) -> int:
    tensors = (p for part in parts for p in (part.parameters() if isinstance(part, nn.Module) else [part]))
    return sum(p.numel() for p in tensors)


@pytest.fixture(scope="module")
def pair() -> tuple[SQAIR, SQAIRGuide]:
    """The published sizes."""
    scene, encoder = SceneConfig(), SetEncoder(50, 256)
    return SQAIR.build(scene, 256, encoder), SQAIRGuide.build(scene, 256, encoder)


class TestParameterCounts:
    """MLP-SQAIR as released: 256 units, D=50, N=3, 50x50 images, 20x20 glimpses (Kosiorek et al. 2018)."""

    # What the released GRUs, with one bias a gate, lack beside `nn.GRUCell`, which has two.
    SECOND_BIAS = 3 * 256

    def test_by_part(self, pair):
        model, guide = pair
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
            # the initial states are counted apart
            "discovery RNN": (size(discovery.rnn.input, discovery.rnn.hidden), 211_456),
            "discovery where": (size(discovery.where, discovery.scale_bias), 133_641),
            "discovery presence": (size(discovery.pres), 39_425),
            "latent encoder": (size(discovery.encoder), 79_872),
            "relation RNN": (size(propagation.relation.input, propagation.relation.hidden), 172_544),
            "propagation where": (size(propagation.where, propagation.scale_bias), 200_201),
            "propagation where, factor": (size(propagation.factor), 10),
            "propagation presence": (size(propagation.pres), 72_193),
            "proposal": (size(propagation.view.proposal), 33_412),
            "temporal GRU": (size(propagation.temporal), 473_856 + self.SECOND_BIAS),
            "temporal what": (size(propagation.what.expected), 25_700),
            "temporal what, gates": (size(propagation.what.gates), 38_550),
            "prior GRU": (size(dynamics.gru), 238_848 + self.SECOND_BIAS),
            "prior readout": (size(dynamics.readout), 28_013),
            "where prior": (size(prior.where), 34_120),
            "count prior": (size(prior.count), 72),
            "initial states": (
                size(discovery.rnn.initial, propagation.relation.initial, dynamics.initial_memory),
                3 * 256,
            ),
        }
        assert {part: ours for part, (ours, _) in counts.items()} == {
            part: theirs for part, (_, theirs) in counts.items()
        }
        # The parts are all there is.
        assert sum(ours for ours, _ in counts.values()) == size(*{*model.parameters(), *guide.parameters()})

    def test_total(self, pair):
        model, guide = pair
        assert size(*{*model.parameters(), *guide.parameters()}) == 2_951_522 + 2 * self.SECOND_BIAS

    def test_what_is_shared(self, pair):
        model, guide = pair
        assert guide.discovery.glimpse_encoder is guide.propagation.glimpse_encoder
        assert guide.discovery.encoder is model.discovery_prior.encoder
        assert set(model.parameters()) & set(guide.parameters()) == set(guide.discovery.encoder.parameters())

    def test_encoders_of_their_own_by_default(self):
        model, guide = SQAIR.build(SCENE, 8), SQAIRGuide.build(SCENE, 8)
        assert not set(model.parameters()) & set(guide.parameters())


class TestSites:
    def test_they_are_the_models(self):
        model, guide = programs()
        for _ in range(5):
            check_sites(model, guide, video())

    def test_order_within_a_slot(self):
        """`where`, `what`, and then presence, which has seen both."""
        _, guide = programs(find=10.0)
        names = [n for n, s in poutine.trace(guide).get_trace(video(2)).nodes.items() if s["type"] == "sample"]
        assert names[:4] == ["sequences", "frame_0/disc_0/where", "frame_0/disc_0/what", "frame_0/disc_0/pres"]
        assert names[10:13] == ["frame_1/prop_0/where", "frame_1/prop_0/what", "frame_1/prop_0/pres"]

    def test_steps_are_the_models_business(self):
        _, guide = programs()
        assert len(guide(video(2), 7)) == 2

    def test_it_needs_frames(self):
        _, guide = programs()
        with pytest.raises(ValueError, match="expected a frame .* step 3 of the guide, got None"):
            guide.step(3, guide.init(B))


class TestPresence:
    @pytest.mark.parametrize("stay", [-1.0, 0.0, 2.0])
    def test_who_may_be_present(self, stay):
        """Eq. 13: only an object of the last frame can be propagated; discovery fills the room that is left."""
        _, guide = programs(stay)
        trace = poutine.trace(guide).get_trace(video(T, 60))
        trace.compute_log_prob()
        states = trace.nodes["_RETURN"]["value"]
        kept = lost = 0
        for t in range(T):
            before = states[t - 1].objects if t > 0 else None
            propagated = torch.zeros(60)
            for i in range(N):
                site = trace.nodes.get(f"frame_{t}/prop_{i}/pres")
                if site is None:
                    assert before is None or (before.pres[:, i] == 0).all()
                    continue
                assert (site["value"] <= before.pres[:, i]).all()
                assert (site["log_prob"][before.pres[:, i] == 0] == 0).all()
                propagated = propagated + site["value"]
                kept += int(site["value"].sum())
                lost += int((before.pres[:, i] - site["value"]).sum())
            found = torch.zeros(60)
            last = torch.ones(60)
            for i in range(N):
                site = trace.nodes.get(f"frame_{t}/disc_{i}/pres")
                is_open = (last > 0) & (propagated + i < N)
                if site is None:
                    assert not is_open.any()
                    break
                assert (site["value"] <= is_open).all()
                assert (site["log_prob"][~is_open] == 0).all()
                last = site["value"]
                found = found + last
            assert torch.equal(states[t].objects.num_present, propagated + found)
            assert (propagated + found <= N).all()
        assert min(kept, lost) > 20

    def test_an_object_keeps_its_id_while_it_stays(self):
        _, guide = programs(stay=0.0)
        objects = stack_objects([state.objects for state in guide(video(T, 40))])
        for t in range(1, T):
            for b in range(40):
                before, now = (set(objects.id[s, b].tolist()) - {-1} for s in (t - 1, t))
                new = now - before
                assert not new or min(new) > max(before | set(objects.id[:t, b].flatten().tolist()))

    def test_memory_follows_its_object(self):
        """The object discovered last has fresh memory; one that stays does not."""
        _, guide = programs(stay=10.0, find=0.0)
        states = guide(video(3, 40))
        for t in (1, 2):
            stayed = torch.isin(states[t].objects.id, states[t - 1].objects.id) & (states[t].objects.pres > 0)
            for b in range(40):
                for i in range(int(states[t].objects.num_present[b])):
                    known = states[t].objects.id[b, i] in states[t - 1].objects.id[b]
                    assert known == (states[t].memory[b, i] != 0).any()
            assert stayed.any()


class TestLearning:
    def test_every_parameter_gets_a_finite_gradient(self):
        model, guide = programs(stay=2.0, find=2.0)
        model, guide, frames = model.double(), guide.double(), video(3, 8).double()
        for parameter in {*model.parameters(), *guide.parameters()}:
            with torch.no_grad():  # no weight is zero, which would hide what is behind it
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

    def test_nothing_in_an_empty_scene_breaks(self):
        model, guide = programs(find=-100.0)
        loss = VIMCO(3)(model, guide)(video())
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in guide.parameters() if p.grad is not None)
        assert all((state.objects.pres == 0).all() for state in guide(video()))


class TestParticles:
    def test_images_are_encoded_once_for_all_particles(self):
        model, guide = programs()
        shapes = []
        guide.discovery.image_encoder.register_forward_hook(lambda module, args, output: shapes.append(output.shape))
        particles = log_weights(model, guide, (video(),), num_particles=4, max_plate_nesting=1)
        assert particles.log_weight.shape == (4, B)
        assert shapes == [(B, 8)] * T

    def test_particles_differ(self):
        model, guide = programs()
        weight = log_weights(model, guide, (video(),), num_particles=4, max_plate_nesting=1).log_weight
        assert weight.isfinite().all()
        assert all(len(set(column.tolist())) == 4 for column in weight.T)


class TestSaving:
    def test_weights_can_be_saved_and_loaded(self, tmp_path):
        _, guide = programs()
        torch.save(guide.state_dict(), tmp_path / "guide.pt")
        _, other = programs()
        frames = video()
        other.load_state_dict(torch.load(tmp_path / "guide.pt"))
        results = []
        for program in (guide, other):
            torch.manual_seed(2)
            results.append(stack_objects([state.objects for state in program(frames)]))
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_guide_without_parameters():
    """Contract C4 holds for guides, too: plain functions suffice."""

    def draw(slots):
        for _ in slots:
            pyro.sample("where", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("what", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            pyro.sample("pres", dist.Bernoulli(torch.tensor(0.5)))

    guide = SQAIRGuide(lambda frame, propagated, slots: draw(slots), lambda frame, p, memory, slots: draw(slots), SCENE)
    model, _ = programs()
    check_sites(model, guide, video())
    assert log_weights(model, guide, (video(),), num_particles=2, max_plate_nesting=1).log_weight.isfinite().all()
