# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The model dreams up scenes, replays what a guide saw, takes any Pyro prior, and learns with SVI."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI
from torch import Tensor

from pyro_sqair.guides import SQAIRGuide
from pyro_sqair.infer import VIMCO, check_sites
from pyro_sqair.infer.log_weights import log_weights
from pyro_sqair.models import SQAIR, DiscoveryPrior, FixedCount, GRUPropagationPrior, mlp_renderer
from pyro_sqair.nn.networks import SetEncoder
from pyro_sqair.scene.objects import Objects, SceneConfig, pad_slots, stack_objects

N, D, T, B = 3, 2, 4, 5
SCENE = SceneConfig(num_slots=N, what_dim=D, image_size=(12, 12), glimpse_size=(6, 6))
COLOUR = SceneConfig(num_slots=2, what_dim=D, channels=3, image_size=(10, 12), glimpse_size=(4, 6))


def video(scene: SceneConfig = SCENE, length: int = T, batch: int = B, **kwargs) -> Tensor:
    return torch.rand(length, batch, scene.channels, *scene.image_size, **kwargs)


def busy_model(propagation_prior=None, scene: SceneConfig = SCENE) -> SQAIR:
    """Objects come at any time and stay for two frames on average."""
    if propagation_prior is None:
        propagation_prior = GRUPropagationPrior(scene.what_dim, 8, presence_bias=0.0)
    discovery = DiscoveryPrior(scene.num_slots, scene.what_dim, SetEncoder(scene.what_dim, 8), FixedCount(0.0, 0.5))
    return SQAIR(discovery, propagation_prior, mlp_renderer(scene, 8), scene)


def busy_guide(scene: SceneConfig = SCENE, encoder: SetEncoder | None = None) -> SQAIRGuide:
    """A guide that finds, keeps and loses objects at random."""
    guide = SQAIRGuide.build(scene, 8, encoder)
    torch.nn.init.zeros_(guide.propagation.pres[-1].bias)
    return guide


def objects_over_time(states) -> Objects:
    return stack_objects([state.objects for state in states])


def sample_sites(trace) -> dict:
    return {name: site for name, site in trace.nodes.items() if site["type"] == "sample" and name != "sequences"}


class TestGeneration:
    def test_objects_come_move_and_go(self):
        model = busy_model()
        with torch.no_grad():
            states = model(video(length=0, batch=20), steps=8)
        assert len(states) == 8
        objects = objects_over_time(states)
        come = move = go = 0
        for b in range(20):
            last: dict[int, Tensor] = {}
            ever: set[int] = set()
            for t in range(8):
                pres, ids = objects.pres[t, b], objects.id[t, b]
                number = int(pres.sum())
                assert pres.tolist() == [1.0] * number + [0.0] * (N - number)
                now = {int(ids[i]): objects.where[t, b, i] for i in range(number)}
                assert len(now) == number
                assert min(now, default=0) >= 0
                assert (ids[number:] == -1).all()
                new = now.keys() - last.keys()
                assert not new & ever, "an id is never reused"
                assert list(now) == [i for i in last if i in now] + sorted(new), "old ones first, in order"
                come += len(new) if t > 0 else 0
                go += len(last.keys() - now.keys())
                move += sum(not torch.equal(now[i], last[i]) for i in now.keys() & last.keys())
                ever |= new
                last = now
        assert min(come, move, go) > 10
        assert objects.num_present.max() == N
        assert objects.num_present.min() == 0

    def test_frames_are_drawn_around_the_rendered_mean(self):
        model = busy_model()
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
    def test_frames_that_are_seen_are_observed(self, seen):
        frames = video()[:seen]
        sites = sample_sites(poutine.trace(busy_model()).get_trace(frames, T))
        images = [sites[f"frame_{t}/image"] for t in range(T)]
        assert f"frame_{T}/image" not in sites
        assert [site["is_observed"] for site in images] == [t < seen for t in range(T)]
        for t in range(seen):
            assert torch.equal(images[t]["value"], frames[t])

    def test_seeds_decide(self):
        model, draws = busy_model(), []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            draws.append(objects_over_time(model(video(length=0), T)).what)
        assert torch.equal(draws[0], draws[1])
        assert not torch.equal(draws[0], draws[2])

    def test_fewer_steps_than_frames(self):
        with pytest.raises(ValueError, match="expected steps of at least the 4 frames .* got 3"):
            busy_model()(video(), 3)


class TestReplay:
    @pytest.mark.parametrize("scene", [SCENE, COLOUR])
    def test_every_value_and_id_is_the_guides(self, scene):
        model, guide, frames = busy_model(scene=scene), busy_guide(scene), video(scene, length=6)
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
        """Presence, `where` and `what` of present objects, and pixels: from the states alone, at t = 0."""
        model, guide, frames = busy_model().double(), busy_guide().double(), video(length=1, batch=30).double()
        guide_trace = poutine.trace(guide).get_trace(frames)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(frames)
        model_trace.compute_log_prob()
        objects, image = (getattr(model_trace.nodes["_RETURN"]["value"][0], name) for name in ("objects", "image"))
        # FixedCount(0.0, .): every count from 0 to N is as likely
        expected = torch.full((30,), -torch.tensor(N + 1.0).double().log())
        prior = model.discovery_prior.where
        context = prior.context(torch.zeros(9).double())
        where, state = prior.initial_where, prior.initial_state
        for i in range(N):
            law, state = prior(context, where, state)
            where = objects.where[:, i]
            what = dist.Normal(0.0, 1.0).log_prob(objects.what[:, i]).sum(-1)
            expected = expected + torch.where(objects.pres[:, i] > 0, law.log_prob(where) + what, 0.0)
        expected = expected + dist.Normal(image, 0.3).log_prob(frames[0]).sum((-1, -2, -3))
        sites = sample_sites(model_trace).values()
        torch.testing.assert_close(sum(site["log_prob"] for site in sites), expected)
        assert set(objects.num_present.tolist()) >= {0.0, 1.0, 2.0}


class TestBatchShapes:
    @pytest.mark.parametrize("plates", [(), (4,), (2, 4)])
    def test_programs_run_within_any_plates(self, plates):
        model, guide, frames = busy_model(), busy_guide(), video()

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
        """Each particle's weight is what it would be if it ran alone, and so is each sequence's."""
        model, guide, frames = busy_model().double(), busy_guide().double(), video(length=5).double()

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


def random_walk(previous, memory, slots):
    """A propagation prior in five lines."""
    for i in slots:
        pyro.sample("pres", dist.Bernoulli(torch.tensor(0.8)))
        pyro.sample("where", dist.Normal(previous.where[..., i, :], 0.1).to_event(1))
        pyro.sample("what", dist.Normal(previous.what[..., i, :], 0.1).to_event(1))


def with_velocity(previous, memory, slots):
    """Objects fly straight on: the velocity is a latent of its own, which the memory holds."""
    velocities = []
    for i in slots:
        before = torch.zeros(2) if memory is None else memory[..., i, :]
        velocity = pyro.sample("velocity", dist.Normal(before, 0.1).to_event(1))
        step = torch.cat([torch.zeros_like(velocity), velocity], -1)
        pyro.sample("pres", dist.Bernoulli(torch.tensor(0.8)))
        pyro.sample("where", dist.Normal(previous.where[..., i, :] + step, 0.01).to_event(1))
        pyro.sample("what", dist.Normal(previous.what[..., i, :], 0.01).to_event(1))
        velocities.append(velocity)
    return pad_slots(torch.stack(velocities, -2), slots.num) if velocities else None


class VelocityGuide(torch.nn.Module):
    """Proposes a velocity along with the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = torch.nn.Parameter(torch.zeros(2))

    def forward(self, frame, previous, memory, slots):
        for i in slots:
            pyro.sample("velocity", dist.Normal(self.loc, 0.1).to_event(1))
            pyro.sample("where", dist.Normal(previous.where[..., i, :], 0.1).to_event(1))
            pyro.sample("what", dist.Normal(previous.what[..., i, :], 0.1).to_event(1))
            pyro.sample("pres", dist.Bernoulli(torch.tensor(0.8)))


class TestPriorsAreCode:
    """Contract C4."""

    def test_random_walk_generates(self):
        states = busy_model(random_walk)(video(length=0), 6)
        assert states[-1].memory is None
        objects = objects_over_time(states)
        assert (objects.num_present > 0).any()
        assert (objects.id.max() > 0).all()

    def test_random_walk_learns_with_the_default_guide(self):
        model, guide, frames = busy_model(random_walk), busy_guide(), video()
        check_sites(model, guide, frames)
        loss = VIMCO(3)(model, guide)(frames)
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in guide.parameters() if p.grad is not None)

    def test_velocity_is_remembered(self):
        model = busy_model(with_velocity)
        trace = poutine.trace(model).get_trace(video(length=0), 6)
        states, sites = trace.nodes["_RETURN"]["value"], sample_sites(trace)
        assert "frame_2/prop_0/velocity" in sites
        followed = 0
        for t in range(2, 6):
            memory = states[t - 1].memory
            if f"frame_{t}/prop_0/velocity" in sites:
                law = sites[f"frame_{t}/prop_0/velocity"]["fn"].base
                assert torch.equal(law.mean, memory[..., 0, :].expand_as(law.mean))
                followed += int((memory[..., 0, :] != 0).any())
        assert followed

    def test_velocity_needs_a_guide_that_proposes_it(self):
        model, frames = busy_model(with_velocity), video()
        with pytest.raises(ValueError, match="in the model but not in the guide: .*velocity"):
            check_sites(model, busy_guide(), frames)
        guide = SQAIRGuide(busy_guide().discovery, VelocityGuide(), SCENE)
        check_sites(model, guide, frames)
        VIMCO(3)(model, guide)(frames).backward()
        assert guide.propagation.loc.grad.abs().sum() > 0

    def test_discovery_prior_as_a_function(self):
        def one_at_a_time(propagated, slots, first):
            for _ in slots:
                pyro.sample("pres", dist.Bernoulli(torch.tensor(0.5)))
                pyro.sample("where", dist.Normal(torch.zeros(4), 1.0).to_event(1))
                pyro.sample("what", dist.Normal(torch.zeros(D), 1.0).to_event(1))

        model = SQAIR(one_at_a_time, random_walk, mlp_renderer(SCENE, 8), SCENE)
        check_sites(model, busy_guide(), video())
        assert (objects_over_time(model(video(), T)).num_present > 0).any()


class TestDtypeAndDevice:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype_is_that_of_the_weights(self, dtype):
        model, guide = busy_model().to(dtype), busy_guide().to(dtype)
        frames = video(dtype=dtype)
        for states in (model(frames, 6), guide(frames)):
            for state in states:
                tensors = (*state.objects[:3], state.memory, *([] if state.image is None else [state.image]))
                assert {tensor.dtype for tensor in tensors} == {dtype}
                assert state.objects.id.dtype == state.next_id.dtype == torch.int64
        loss = VIMCO(2)(model, guide)(frames)
        loss.backward()
        assert loss.dtype == dtype

    def test_default_dtype_is_no_matter(self):
        """Float32 programs stay so where the default is float64: no constant has a dtype of its own."""
        model, guide, frames = busy_model(), busy_guide(), video()
        torch.set_default_dtype(torch.float64)
        assert VIMCO(2)(model, guide)(frames).dtype == torch.float32
        assert model(frames, 6)[-1].image.dtype == torch.float32

    def test_no_tensor_is_made_on_a_fixed_device(self):
        """On the meta device a tensor made elsewhere is an error; nor may values be read there, as on a GPU."""
        model, guide, frames = busy_model().to("meta"), busy_guide().to("meta"), video(device="meta")
        with pyro.validation_enabled(False):
            particles = log_weights(model, guide, (frames,), num_particles=2, max_plate_nesting=1)
            states = model(frames[:0], T)
        assert particles.log_weight.device.type == particles.score.device.type == "meta"
        assert particles.log_weight.shape == (2, B)
        assert {tensor.device.type for state in states for tensor in (*state.objects, state.image)} == {"meta"}

    def test_on_the_device_under_test(self, device):
        model, guide, frames = busy_model().to(device), busy_guide().to(device), video().to(device)
        loss = VIMCO(2)(model, guide)(frames)
        loss.backward()
        assert loss.isfinite()
        assert loss.device.type == device.type


class TestErrors:
    @pytest.mark.parametrize("program", [busy_model, busy_guide])
    @pytest.mark.parametrize(
        ("frames", "message"),
        [
            (torch.rand(T, B, 12, 12), r"expected frames of shape \[T, B, C, H, W\], got \[4, 5, 12, 12\]"),
            (torch.rand(T, B, 1, 12, 13), r"\[T, B, 1, 12, 12\], got \[4, 5, 1, 12, 13\]"),
            (torch.rand(T, B, 3, 12, 12), r"\[T, B, 1, 12, 12\], got \[4, 5, 3, 12, 12\]"),
            (torch.rand(T, 0, 1, 12, 12), "at least one sequence"),
            (torch.zeros(T, B, 1, 12, 12, dtype=torch.uint8), "floating-point"),
        ],
    )
    def test_wrong_frames(self, program, frames, message):
        with pytest.raises(ValueError, match=message):
            program()(frames)

    def test_an_error_in_a_prior_leaves_nothing_on_the_stack(self):
        def broken(previous, memory, slots):
            for _ in slots:
                raise RuntimeError("the user's own mistake")

        with pytest.raises(RuntimeError, match="the user's own mistake"):
            busy_model(broken)(video(length=0), 3)
        assert not pyro.poutine.runtime._PYRO_STACK

    def test_a_prior_that_forgets_a_site(self):
        def forgetful(previous, memory, slots):
            for i in slots:
                pyro.sample("pres", dist.Bernoulli(torch.tensor(0.5)))
                pyro.sample("where", dist.Normal(previous.where[..., i, :], 0.1).to_event(1))

        with pytest.raises(ValueError, match="in slot prop_0.*missing: .*what"):
            busy_model(forgetful)(video(length=0), 3)
        assert not pyro.poutine.runtime._PYRO_STACK


class TestSVI:
    """`pyro.infer.SVI` trains both programs, and the encoder they share once a step."""

    RATE = 1e-3

    def programs(self):
        encoder = SetEncoder(D, 8)
        model = SQAIR.build(SCENE, 8, encoder)
        guide = busy_guide(encoder=encoder)
        return model, guide, encoder

    def test_steps_update_model_and_guide(self):
        model, guide, _ = self.programs()
        before = [p.detach().clone() for p in (*model.parameters(), *guide.parameters())]
        svi = SVI(model, guide, pyro.optim.Adam({"lr": self.RATE}), VIMCO(num_particles=2))
        losses = [svi.step(video()) for _ in range(3)]
        assert all(torch.as_tensor(loss).isfinite() for loss in losses)
        after = list((*model.parameters(), *guide.parameters()))
        moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        assert all(moved), "Adam moves whatever has had a gradient"

    def test_each_parameter_moves_once_by_its_gradient(self):
        model, guide, encoder = self.programs()
        model, guide = model.double(), guide.double()
        assert set(encoder.parameters()) == set(model.parameters()) & set(guide.parameters())
        frames, vimco = video().double(), VIMCO(num_particles=2, max_plate_nesting=1)
        torch.manual_seed(3)
        vimco(model, guide)(frames).backward()
        step = {}
        for p in {*model.parameters(), *guide.parameters()}:
            step[p] = (p.detach().clone(), torch.zeros_like(p) if p.grad is None else self.RATE * p.grad)
            p.grad = None
        assert all((step[p][1] != 0).any() for p in encoder.parameters())
        svi = SVI(model, guide, pyro.optim.SGD({"lr": self.RATE}), vimco)
        torch.manual_seed(3)
        svi.step(frames)
        for p, (before, change) in step.items():
            torch.testing.assert_close(before - p.detach(), change, rtol=1e-6, atol=1e-14)
