# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The model generates, replays a guide's draws, runs in any plates, and trains with SVI."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI
from torch import Tensor

from pyro_sqair.experiments import SQAIRSystem
from pyro_sqair.guides import SQAIRGuide
from pyro_sqair.infer import VIMCO
from pyro_sqair.infer.log_weights import log_weights
from pyro_sqair.models import SQAIR
from pyro_sqair.scene.objects import Objects, SceneConfig, stack_objects

N, D, T, B = 3, 2, 4, 5
SCENE = SceneConfig(num_slots=N, what_dim=D, image_size=(12, 12), glimpse_size=(6, 6))
COLOUR = SceneConfig(num_slots=2, what_dim=D, channels=3, image_size=(10, 12), glimpse_size=(4, 6))


def video(scene: SceneConfig = SCENE, length: int = T, batch: int = B, **kwargs) -> Tensor:
    return torch.rand(length, batch, scene.channels, *scene.image_size, **kwargs)


def programs(scene: SceneConfig = SCENE) -> tuple[SQAIR, SQAIRGuide]:
    """A small model and guide. Objects appear at any time and stay for two frames on average."""
    model, guide = SQAIRSystem(8, object_costs=(0.0, 0.5)).programs(scene)
    model.propagation_prior.presence_bias = 0.0
    torch.nn.init.zeros_(guide.propagation.pres[-1].bias)
    return model, guide


def objects_over_time(states) -> Objects:
    return stack_objects([state.objects for state in states])


def sample_sites(trace) -> dict:
    return {name: site for name, site in trace.nodes.items() if site["type"] == "sample" and name != "sequences"}


class TestGeneration:
    def test_objects_appear_move_and_disappear(self):
        model, _ = programs()
        with torch.no_grad():
            states = model(video(length=0, batch=20), steps=8)
        assert len(states) == 8
        objects = objects_over_time(states)
        present, ids = objects.pres > 0, objects.id
        same = (ids[1:].unsqueeze(-1) == ids[:-1].unsqueeze(-2)) & present[1:].unsqueeze(-1)  # [T - 1, B, now, before]
        stayed, removed = same.any(-1), present[:-1] & ~same.any(-2)
        before = torch.einsum("tbij,tbjk->tbik", same.float(), objects.where[:-1])
        moved = stayed & (objects.where[1:] != before).all(-1)
        appeared = present[1:] & ~stayed
        assert torch.equal(moved, stayed)
        assert min(int(kind.sum()) for kind in (appeared, moved, removed)) > 10
        assert objects.num_present.max() == N
        assert objects.num_present.min() == 0

    def test_frames_are_drawn_around_the_rendered_mean(self):
        model, _ = programs()
        trace = poutine.trace(model).get_trace(video(length=0), 3)
        states = trace.nodes["_RETURN"]["value"]
        errors = []
        for t, state in enumerate(states):
            site = trace.nodes[f"frame_{t}/image"]
            assert not site["is_observed"]
            assert site["value"].shape == (B, 1, 12, 12)
            torch.testing.assert_close(state.image, model.renderer(state.objects))
            errors.append((site["value"] - state.image).flatten() / model.renderer.std)
        assert abs(torch.cat(errors).std() - 1) < 5 / (2 * 3 * B * 144) ** 0.5

    @pytest.mark.parametrize("seen", [0, 1, T])
    def test_given_frames_are_observed(self, seen):
        frames = video()[:seen]
        sites = sample_sites(poutine.trace(programs()[0]).get_trace(frames, T))
        images = [sites[f"frame_{t}/image"] for t in range(T)]
        assert f"frame_{T}/image" not in sites
        assert [site["is_observed"] for site in images] == [t < seen for t in range(T)]
        for t in range(seen):
            assert torch.equal(images[t]["value"], frames[t])

    def test_fewer_steps_than_frames(self):
        with pytest.raises(ValueError, match="expected steps of at least the 4 frames .* got 3"):
            programs()[0](video(), 3)


class TestReplay:
    @pytest.mark.parametrize("scene", [SCENE, COLOUR])
    def test_values_and_ids_are_those_of_the_guide(self, scene):
        model, guide = programs(scene)
        frames = video(scene, length=6)
        for _ in range(5):
            guide_trace = poutine.trace(guide).get_trace(frames)
            model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(frames)
            inferred, replayed = sample_sites(guide_trace), sample_sites(model_trace)
            assert {name for name in replayed if not name.endswith("image")} == inferred.keys()
            for name, site in inferred.items():
                assert torch.equal(site["value"], replayed[name]["value"])
            ours = objects_over_time(guide_trace.nodes["_RETURN"]["value"])
            theirs = objects_over_time(model_trace.nodes["_RETURN"]["value"])
            for left, right in zip(ours, theirs, strict=True):
                assert torch.equal(left, right)
            assert (ours.num_present[1:] != ours.num_present[:-1]).any()

    def test_log_prob_is_the_sum_of_its_parts(self):
        """In the first frame: presence, `where` and `what` of present objects, and pixels, computed from the states."""
        model, guide = (program.double() for program in programs())
        frames = video(length=1, batch=30).double()
        guide_trace = poutine.trace(guide).get_trace(frames)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(frames)
        model_trace.compute_log_prob()
        objects, image = (getattr(model_trace.nodes["_RETURN"]["value"][0], name) for name in ("objects", "image"))
        # FixedCount(0.0, .): all counts from 0 to N have the same probability
        expected = torch.full((30,), -torch.tensor(N + 1.0).double().log())
        prior = model.discovery_prior.where
        context = prior.context(torch.zeros(9).double())
        where, state = prior.initial_where, prior.initial_state
        for i in range(N):
            p_where, state = prior(context, where, state)
            where = objects.where[:, i]
            what = dist.Normal(0.0, 1.0).log_prob(objects.what[:, i]).sum(-1)
            expected = expected + torch.where(objects.pres[:, i] > 0, p_where.log_prob(where) + what, 0.0)
        expected = expected + dist.Normal(image, 0.3).log_prob(frames[0]).sum((-1, -2, -3))
        sites = sample_sites(model_trace).values()
        torch.testing.assert_close(sum(site["log_prob"] for site in sites), expected)
        assert set(objects.num_present.tolist()) >= {0.0, 1.0, 2.0}


class TestBatchShapes:
    @pytest.mark.parametrize("plates", [(), (4,), (2, 4)])
    def test_programs_run_within_any_plates(self, plates):
        model, guide = programs()
        frames = video()

        def within(program):
            def run(frames):
                with pyro.plate_stack("outer", plates, rightmost_dim=-2):
                    return program(frames)

            return run

        guide_trace = poutine.trace(within(guide)).get_trace(frames)
        model_trace = poutine.trace(poutine.replay(within(model), trace=guide_trace)).get_trace(frames)
        shape = (*plates, B)
        for trace in (guide_trace, model_trace):
            trace.compute_log_prob()
            for name, site in sample_sites(trace).items():
                if not name.startswith("outer"):
                    assert site["log_prob"].shape == shape, name
            for state in trace.nodes["_RETURN"]["value"]:
                assert state.objects.pres.shape == state.objects.id.shape == (*shape, N)
                assert state.objects.where.shape == (*shape, N, 4)
                assert state.objects.what.shape == (*shape, N, D)
        assert model_trace.nodes["_RETURN"]["value"][-1].image.shape == (*shape, 1, 12, 12)

    def test_particles_are_independent_of_each_other(self):
        """The weight of each particle and sequence is that of a run with this particle and sequence alone."""
        model, guide = (program.double() for program in programs())
        frames = video(length=5).double()

        def log_probs(values, frames, particles):
            def within(program):
                def run():
                    with pyro.plate("particles", particles, dim=-2):
                        return program(frames)

                return poutine.condition(run, values)

            total = []
            for program in (guide, model):
                trace = poutine.trace(within(program)).get_trace()
                trace.compute_log_prob()
                sites = [site for name, site in sample_sites(trace).items() if name != "particles"]
                total.append(sum(site["log_prob"] for site in sites).detach())
            return trace, total

        with pyro.plate("particles", 3, dim=-2):
            trace = poutine.trace(guide).get_trace(frames)
        values = {name: site["value"] for name, site in sample_sites(trace).items()}
        _, together = log_probs(values, frames, 3)
        for k, b in itertools.product(range(3), range(B)):
            own = {name: value[k : k + 1, b : b + 1] for name, value in values.items()}
            _, alone = log_probs(own, frames[:, b : b + 1], 1)
            for left, right in zip(together, alone, strict=True):
                torch.testing.assert_close(left[k, b], right[0, 0])


class TestDtypeAndDevice:
    @pytest.mark.parametrize("default", [torch.float32, torch.float64])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype_is_that_of_the_weights(self, dtype, default):
        model, guide = (program.to(dtype) for program in programs())
        frames = video(dtype=dtype)
        torch.set_default_dtype(default)
        for states in (model(frames, 6), guide(frames)):
            for state in states:
                tensors = (*state.objects[:3], state.memory, *([] if state.image is None else [state.image]))
                assert {tensor.dtype for tensor in tensors} == {dtype}
                assert state.objects.id.dtype == state.next_id.dtype == torch.int64
        loss = VIMCO(2)(model, guide)(frames)
        loss.backward()
        assert loss.dtype == dtype

    def test_no_tensor_is_made_on_a_fixed_device(self):
        """The meta device raises an error for tensors of other devices, and for reading values."""
        model, guide = (program.to("meta") for program in programs())
        frames = video(device="meta")
        with pyro.validation_enabled(False):
            particles = log_weights(model, guide, (frames,), num_particles=2, max_plate_nesting=1)
            states = model(frames[:0], T)
        assert particles.log_weight.device.type == particles.score.device.type == "meta"
        assert particles.log_weight.shape == (2, B)
        assert {tensor.device.type for state in states for tensor in (*state.objects, state.image)} == {"meta"}

    def test_on_the_device_under_test(self, device):
        model, guide = (program.to(device) for program in programs())
        loss = VIMCO(2)(model, guide)(video().to(device))
        loss.backward()
        assert loss.isfinite()
        assert loss.device.type == device.type


@pytest.mark.parametrize("half", [0, 1], ids=["model", "guide"])
def test_frames_are_checked(half):
    with pytest.raises(ValueError, match=r"expected frames of shape .* got \[4, 5, 12, 12\]"):
        programs()[half](torch.rand(T, B, 12, 12))


def test_svi_updates_each_parameter_once_by_its_gradient():
    """Also the encoder that model and guide share."""
    rate = 1e-3
    model, guide = (program.double() for program in programs())
    shared = set(model.parameters()) & set(guide.parameters())
    frames, vimco = video().double(), VIMCO(num_particles=2, max_plate_nesting=1)
    torch.manual_seed(3)
    vimco(model, guide)(frames).backward()
    step = {}
    for p in {*model.parameters(), *guide.parameters()}:
        step[p] = (p.detach().clone(), torch.zeros_like(p) if p.grad is None else rate * p.grad)
        p.grad = None
    assert all((step[p][1] != 0).any() for p in shared)
    svi = SVI(model, guide, pyro.optim.SGD({"lr": rate}), vimco)
    torch.manual_seed(3)
    svi.step(frames)
    for p, (before, change) in step.items():
        torch.testing.assert_close(before - p.detach(), change, rtol=1e-6, atol=1e-14)
