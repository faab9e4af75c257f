# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The online filter: exact on a tiny SQAIR, whose objects it shows under steady ids, in constant memory."""

from __future__ import annotations

import gc
import importlib.util
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_sqair.guides import SQAIRGuide
from pyro_sqair.infer import smc_evidence
from pyro_sqair.models import SQAIR, DiscoveryPrior, FixedCount, GRUPropagationPrior, mlp_renderer
from pyro_sqair.networks import SetEncoder
from pyro_sqair.online import Filter, Tracks, _numbered, _one_to_one
from pyro_sqair.program import Program
from pyro_sqair.scene import Objects, SceneConfig, State, merge
from pyro_sqair.spatial import boxes, where_from_boxes

N, D, T, B = 3, 2, 5, 4
SCENE = SceneConfig(num_slots=N, what_dim=D, image_size=(12, 14), glimpse_size=(6, 6))


@pytest.fixture
def programs() -> tuple[SQAIR, SQAIRGuide]:
    """A model and a guide in which objects come and go, and frames that hardly speak for or against them."""
    discovery = DiscoveryPrior(N, D, SetEncoder(D, 8), FixedCount(-2.0, 0.5))
    model = SQAIR(discovery, GRUPropagationPrior(D, 8, presence_bias=2.0), mlp_renderer(SCENE, 8, std=2.0), SCENE)
    guide = SQAIRGuide.build(SCENE, 8)
    nn.init.ones_(guide.propagation.pres[-1].bias)
    with torch.no_grad():  # as broad as the prior, or whoever has an object would pay for it
        guide.discovery.scale_bias.fill_(0.5)
        guide.propagation.scale_bias.fill_(0.5)
    return model, guide


@pytest.fixture
def frames() -> Tensor:
    return torch.rand(T, B, 1, 12, 14)


def run(filter: Filter, frames: Tensor, seed: int = 1) -> list[Tracks]:
    torch.manual_seed(seed)
    return [filter.update(frame) for frame in frames]


# ---------------------------------------------------------------- exactness


@pytest.fixture(scope="module")
def exactness() -> Iterator[ModuleType]:
    """The oracle of the importance weights' test: SQAIRs whose evidence is known."""
    path = Path(__file__).with_name("test_exactness.py")
    spec = importlib.util.spec_from_file_location("exactness_oracle_online", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look themselves up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize(("length", "threshold"), [(1, 0.5), (2, 1), (3, 0.5)])
def test_evidence_and_counts_of_a_tiny_sqair(exactness, length, threshold):
    """E[Z] = p(x) and E[Z P(count = d)] = p(x) P(count = d | x), by enumeration, within 4 standard errors."""
    torch.set_default_dtype(torch.float64)
    case = exactness.make_case(exactness.World(num_slots=2, length=length, pixel_std=0.7))
    copies = 1000
    tracks = run(Filter(case.model, case.guide, 16, threshold=threshold), case.frames.repeat_interleave(copies, 1))
    ratio = (tracks[-1].log_evidence.reshape(-1, copies) - case.log_evidence.unsqueeze(-1)).exp()
    error = ratio.std(-1) / math.sqrt(copies)
    assert (error < 0.04).all()
    assert ((ratio.mean(-1) - 1).abs() < 4 * error).all()
    probability = tracks[-1].count_probability
    torch.testing.assert_close(probability.sum(-1), torch.ones(len(probability)))
    for b, joint in enumerate(case.log_joint):
        for d in range(3):
            logs = [log_joint for path, log_joint in joint.items() if len(path[-1]) == d]
            exact = math.exp(exactness.log_sum_exp(logs) - case.log_evidence[b].item())
            estimate = ratio[b] * probability.reshape(-1, copies, 3)[b, :, d]
            assert abs(estimate.mean() - exact) < 4 * estimate.std() / math.sqrt(copies), (b, d)


def test_evidence_is_that_of_the_particle_filter(programs, frames):
    tracks = run(Filter(*programs, num_particles=6, resampling="stratified", threshold=0.7), frames)
    torch.manual_seed(1)
    evidence = smc_evidence(*programs, frames, num_particles=6, resampling="stratified", threshold=0.7)
    torch.testing.assert_close(tracks[-1].log_evidence.float(), evidence)
    torch.testing.assert_close(sum(t.increment.double() for t in tracks), tracks[-1].log_evidence)


# ---------------------------------------------------------------- what is shown


def test_shapes_and_conventions(programs, frames):
    ever: list[set[int]] = [set() for _ in range(B)]
    before: list[set[int]] = [set() for _ in range(B)]
    kept = 0
    for track in run(Filter(*programs, num_particles=6), frames):
        assert track.present.shape == track.ids.shape == track.presence.shape == (B, N)
        assert track.present.dtype == torch.bool
        assert track.boxes.shape == (B, N, 4)
        assert track.count_probability.shape == (B, N + 1)
        assert track.image.shape == (B, 1, 12, 14)
        assert track.increment.shape == track.log_evidence.shape == track.effective_sample_size.shape == (B,)
        assert not any(field.requires_grad for field in track)
        assert torch.equal(track.ids >= 0, track.present)
        assert torch.equal(track.boxes.abs().sum(-1) > 0, track.present)
        assert torch.equal(track.presence > 0, track.present)
        assert (track.presence <= 1).all()
        assert ((track.effective_sample_size >= 0.999) & (track.effective_sample_size <= 6.001)).all()
        assert torch.equal(track.present, track.present.long().sort(-1, descending=True).values > 0)
        for b, ids in enumerate(track.ids):
            now = set(ids[ids >= 0].tolist())
            assert len(now) == int((ids >= 0).sum())
            assert not (now - before[b]) & ever[b], "an id is never reused"
            kept += len(now & before[b])
            before[b] = now
            ever[b] |= now
    assert kept > 0


def test_image_and_boxes_are_of_one_particle(programs, frames):
    """The image that the renderer makes of the objects that are shown."""
    filter = Filter(*programs, num_particles=6)
    for frame in frames:
        track = filter.update(frame)
        particles = filter._past.particles
        for b in range(B):
            k = int(particles.log_weight[:, b].argmax())
            objects = Objects(*(field[k, b] for field in particles.model_state.objects))
            present = objects.pres > 0
            assert torch.equal(track.present[b], present)
            assert torch.equal(track.boxes[b][present], boxes(objects.where, (12, 14))[present])
            torch.testing.assert_close(track.image[b], programs[0].renderer(objects))


def test_one_video_without_a_batch_dimension(programs, frames):
    alone = run(Filter(*programs, num_particles=6), frames[:, 0])
    batch = run(Filter(*programs, num_particles=6), frames[:, :1])
    for one, many in zip(alone, batch, strict=True):
        for field, wide in zip(one, many, strict=True):
            assert torch.equal(field, wide[0])


def test_on_the_device_under_test(programs, frames, device):
    filter = Filter(*(program.to(device) for program in programs), num_particles=3)
    for frame in frames.to(device):
        tracks = filter.update(frame)
    assert all(field.device.type == device.type for field in tracks)
    assert filter.predict(2).image.device.type == device.type


def test_reset_begins_anew(programs, frames):
    filter = Filter(*programs, num_particles=6)
    first = run(filter, frames)
    filter.reset()
    for old, new in zip(first, run(filter, frames), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(old, new, strict=True))
    filter.reset()
    assert filter.update(frames[0, 0]).ids.shape == (N,)


LEFT, RIGHT, MIDDLE = [1.0, 4.0, 4.0, 4.0], [9.0, 4.0, 4.0, 4.0], [5.0, 7.0, 3.0, 3.0]


class Scripted(Program):
    """Two particles: 0 finds the left object first, 1 the right one first and, at frame 2, one in the middle.

    A bright frame speaks for particle 0, a dark one for particle 1.
    """

    def __init__(self, is_model: bool) -> None:
        super().__init__(SCENE)
        self.is_model = is_model

    def step(self, t: int, state: State, frame: Tensor | None = None) -> State:
        assert frame is not None
        who = pyro.sample(f"who_{t}", dist.Delta(torch.tensor([[0.0], [1.0]])))
        if self.is_model:
            speaks_for = (frame.mean((-3, -2, -1)) < 0.5).float()
            pyro.factor(f"image_{t}", 30.0 * 2**t * (who == speaks_for))  # enough to overturn the past
        new = [[LEFT, RIGHT], [RIGHT, LEFT]] if t == 0 else [[MIDDLE], [MIDDLE]]
        where = where_from_boxes(torch.tensor(new), SCENE.image_size)[:, None].expand(2, who.shape[1], -1, 4)
        pres = torch.ones(where.shape[:-1]) if t == 0 else (who * (t == 2)).unsqueeze(-1)
        found = Objects(pres, where, torch.zeros(*pres.shape, D), torch.full(pres.shape, -1))
        after = merge(state.objects, found, state.next_id)
        return after._replace(image=torch.zeros(*who.shape, 1, 12, 14) if self.is_model else None)


def test_ids_stay_when_another_particle_is_shown():
    """And in one video of the batch what another one shows does not matter."""
    filter = Filter(Scripted(True), Scripted(False), 2, threshold=0)
    shown = [0, 1, 0, 1, 1, 0]
    names: list[list[dict[int, int]]] = []  # of each frame and video: where -> id
    for particle in shown:
        frame = torch.stack([torch.full((1, 12, 14), value) for value in (0.9 - 0.8 * particle, 0.9)])
        tracks = filter.update(frame)
        names.append([])
        for lefts, ids in zip(tracks.boxes[..., 0], tracks.ids, strict=True):
            names[-1].append({round(float(x)): int(i) for x, i in zip(lefts, ids, strict=True) if i >= 0})
        torch.testing.assert_close(tracks.presence[0, :2], torch.ones(2))
    two, three = {1: 0, 9: 1}, {1: 0, 9: 1, 5: 2}
    assert [first for first, _ in names] == [two, two, two, three, three, two]
    assert all(second == two for _, second in names)


def test_presence_is_the_weight_of_particles_that_agree():
    """Frames that speak for neither: both particles have the two, and only one has the third."""

    class Undecided(Scripted):
        def step(self, t, state, frame=None):
            with pyro.poutine.scale(scale=0.01 if t == 2 else 1e-12):
                return super().step(t, state, frame)

    filter = Filter(Undecided(True), Undecided(False), 2, threshold=0)
    for _ in range(3):
        tracks = filter.update(torch.zeros(1, 12, 14))
    favoured = 1 / (1 + math.exp(-1.2))
    torch.testing.assert_close(tracks.presence, torch.tensor([1.0, 1.0, favoured]))
    torch.testing.assert_close(tracks.count_probability, torch.tensor([0.0, 0.0, 1 - favoured, favoured]))
    assert tracks.effective_sample_size == pytest.approx(1 / (favoured**2 + (1 - favoured) ** 2), rel=1e-5)


def test_pairing_by_hand():
    overlap = torch.rand(200, 4, 4).pow(2) * (torch.rand(200, 4, 4) < 0.7)
    taken = _one_to_one(overlap, 0.2)
    for b in range(200):
        ranked = sorted(((float(overlap[b, i, j]), i, j) for i in range(4) for j in range(4)), reverse=True)
        rows, columns, pairs = set(), set(), set()
        for value, i, j in ranked:
            if value >= 0.2 and i not in rows and j not in columns:
                rows.add(i)
                columns.add(j)
                pairs.add((i, j))
        assert {(int(i), int(j)) for i, j in taken[b].nonzero()} == pairs


def test_numbering():
    names, following = _numbered(
        torch.tensor([[4, -1, -1], [-1, -1, 0]]), torch.tensor([[1, 1, 1], [1, 0, 1]]).bool(), torch.tensor([7, 1])
    )
    assert names.tolist() == [[4, 7, 8], [1, -1, 0]]
    assert following.tolist() == [9, 2]


# ---------------------------------------------------------------- constant memory


def test_memory_does_not_grow(programs):
    filter = Filter(*programs, num_particles=3)
    frames = torch.rand(8, 1, 12, 14)

    def advance(count: int) -> tuple[int, int, int]:
        """Objects that Python's collector knows, blocks of memory that Python holds, and bytes in tensors."""
        for t in range(count):
            filter.update(frames[t % 8])
        gc.collect()
        objects = gc.get_objects()
        size = sum(x.numel() * x.element_size() for x in objects if type(x) is Tensor)
        return len(objects), sys.getallocatedblocks(), size

    objects, blocks, size = advance(20)
    more_objects, more_blocks, more_size = advance(180)
    assert more_objects - objects < 180, "fewer than one new object a frame"
    # Pyro makes up names of attributes, which Python's cache of attributes holds for a while; a trace has hundreds.
    assert more_blocks - blocks < 180 * 30, "fewer than 30 blocks a frame"
    assert more_size <= size
    assert not list(pyro.get_param_store())


# ---------------------------------------------------------------- prediction


@pytest.mark.parametrize("batch", [True, False])
def test_prediction_goes_on_from_what_is_shown(programs, frames, batch):
    filter = Filter(*programs, num_particles=6)
    video = frames if batch else frames[:, 2]
    last = run(filter, video)[-1]
    state = torch.get_rng_state()
    kept = lost = 0
    for _ in range(10):
        rollout = filter.predict(4)
        lead = (4, B) if batch else (4,)
        assert rollout.image.shape == (*lead, 1, 12, 14)
        assert rollout.objects.id.shape == (*lead, N)
        torch.testing.assert_close(rollout.image, programs[0].renderer(rollout.objects))
        assert torch.equal(rollout.objects.id >= 0, rollout.objects.pres > 0)
        old, new = (ids.reshape(-1, N).tolist() for ids in (last.ids, rollout.objects.id[0]))
        for now, then in zip(new, old, strict=True):
            kept += len(set(now) & set(then) - {-1})
            lost += len(set(then) - set(now) - {-1})
            assert all(name > max(then) for name in set(now) - set(then) - {-1})
    assert kept > lost > 0 or not batch  # the one video ends without objects
    # the filter is as it was
    torch.set_rng_state(state)
    onward = filter.update(video[0])
    other = Filter(*programs, num_particles=6)
    run(other, video)
    expected = other.update(video[0])
    assert all(torch.equal(a, b) for a, b in zip(onward, expected, strict=True))


def test_average_of_predicted_counts(exactness):
    """The prior predictive of a world whose objects stay with a known probability, from one known object."""
    torch.set_default_dtype(torch.float64)
    case = exactness.make_case(exactness.World(num_slots=1, length=1, count="user"))
    filter = Filter(case.model, case.guide, 4)
    run(filter, case.frames[:, :1].expand(-1, 4000, -1, -1, -1))
    present = filter._past.particles.model_state.objects.pres
    shown = present.gather(0, filter._past.best.reshape(1, -1, 1)).squeeze((0, -1)) > 0
    after = filter.predict(1).objects.pres[0, :, 0]
    stay, appear = 0.55, 0.7  # of `World`; where one is lost another may appear at once
    for group, exact in ((shown, stay + (1 - stay) * appear), (~shown, appear)):
        share = after[group].mean().item()
        assert abs(share - exact) < 4 * math.sqrt(exact * (1 - exact) / int(group.sum()))


# ---------------------------------------------------------------- bad input


class TestErrors:
    @pytest.mark.parametrize(
        ("frame", "message"),
        [
            (torch.rand(12, 14), r"frame of shape \[1, 12, 14\] or \[B, 1, 12, 14\] as a torch.Tensor, got \[12, 14\]"),
            (torch.rand(3, 12, 14), r"\[1, 12, 14\] or .* got \[3, 12, 14\]"),
            (torch.rand(2, 1, 14, 12), r"\[1, 12, 14\] or .* got \[2, 1, 14, 12\]"),
            (torch.rand(0, 1, 12, 14), r"got \[0, 1, 12, 14\]"),
            ([[0.0]], "as a torch.Tensor, got list"),
            (torch.zeros(1, 12, 14, dtype=torch.uint8), "for uint8 video divide by 255"),
            (torch.rand(1, 12, 14).double(), "as the program's weights are, got torch.float64"),
            (torch.rand(1, 12, 14) * 255, "divide by 255"),
            (torch.full((1, 12, 14), math.nan), "finite values"),
        ],
    )
    def test_frames(self, programs, frame, message):
        filter = Filter(*programs, num_particles=2)
        with pytest.raises(ValueError, match=message):
            filter.update(frame)
        filter.update(torch.rand(1, 12, 14))  # no harm done

    @pytest.mark.parametrize("shape", [(2, 1, 12, 14), (1, 12, 14)])
    def test_another_batch_size_half_way(self, programs, shape):
        filter = Filter(*programs, num_particles=2)
        filter.update(torch.rand(1, 1, 12, 14))
        with pytest.raises(ValueError, match=r"shape \[1, 1, 12, 14\] like the one before, .* call reset\(\)"):
            filter.update(torch.rand(shape))

    def test_values_are_read_only_under_validation(self, programs):
        with pyro.validation_enabled(False):
            Filter(*programs, num_particles=2).update(torch.full((1, 12, 14), 1.5))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_particles": 0}, "num_particles >= 1, got 0"),
            ({"threshold": 2}, "threshold from 0 .* got 2"),
            ({"resampling": "none"}, "'systematic'.* got 'none'"),
            ({"min_overlap": 0.0}, "min_overlap above 0 .* got 0.0"),
        ],
    )
    def test_arguments(self, programs, arguments, message):
        with pytest.raises(ValueError, match=message):
            Filter(*programs, **arguments)

    def test_prediction_from_nothing(self, programs):
        filter = Filter(*programs, num_particles=2)
        with pytest.raises(ValueError, match="call update first"):
            filter.predict(3)
        filter.update(torch.rand(1, 12, 14))
        with pytest.raises(ValueError, match="steps of at least 1, got 0"):
            filter.predict(0)
