# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The online filter: exact evidence of a tiny SQAIR, conventions, constant memory, and prediction."""

from __future__ import annotations

import gc
import math
import sys

import numpy as np
import pyro
import pytest
import torch
from exact_sqair import World, make_case
from torch import Tensor

from pyro_sqair.infer import smc_evidence
from pyro_sqair.scene.objects import Objects
from pyro_sqair.scene.spatial import boxes
from pyro_sqair.tracking.filter import Filter, Tracks

N, B = 3, 4  # slots and batch size of the fixtures


def run(filter: Filter, frames: Tensor, seed: int = 1) -> list[Tracks]:
    torch.manual_seed(seed)
    return [filter.update(frame) for frame in frames]


def all_equal(left: Tracks, right: Tracks) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


# ---------------------------------------------------------------- exactness


@pytest.mark.parametrize(("length", "threshold"), [(1, 0.5), (2, 1), (3, 0.5)])
def test_evidence_and_counts_of_a_tiny_sqair(length, threshold):
    """E[Z] = p(x) and E[Z P(count = d)] = p(x) P(count = d | x), by enumeration, within 4 standard errors."""
    torch.set_default_dtype(torch.float64)
    case = make_case(World(num_slots=2, length=length, pixel_std=0.7))
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
            logs = [log_joint for history, log_joint in joint.items() if len(history[-1]) == d]
            exact = math.exp(np.logaddexp.reduce(logs) - case.log_evidence[b].item())
            estimate = ratio[b] * probability.reshape(-1, copies, 3)[b, :, d]
            assert abs(estimate.mean() - exact) < 4 * estimate.std() / math.sqrt(copies), (b, d)


def test_evidence_is_that_of_the_particle_filter(programs, frames):
    tracks = run(Filter(*programs, num_particles=6, resampling="stratified", threshold=0.7), frames)
    torch.manual_seed(1)
    evidence = smc_evidence(*programs, frames, num_particles=6, resampling="stratified", threshold=0.7)
    torch.testing.assert_close(tracks[-1].log_evidence.float(), evidence)
    torch.testing.assert_close(sum(t.increment.double() for t in tracks), tracks[-1].log_evidence)


# ---------------------------------------------------------------- tracks


def test_shapes_and_conventions(programs, frames):
    filter = Filter(*programs, num_particles=6)
    seen: list[set[int]] = [set() for _ in range(B)]
    before: list[set[int]] = [set() for _ in range(B)]
    num_kept = 0
    for frame in frames:
        track = filter.update(frame)
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
        particles = filter._state.particles
        for b, ids in enumerate(track.ids):
            best = int(particles.log_weight[:, b].argmax())
            objects = Objects(*(field[best, b] for field in particles.model_state.objects))
            present = objects.pres > 0
            assert torch.equal(track.present[b], present)
            assert torch.equal(track.boxes[b][present], boxes(objects.where, (12, 14))[present])
            torch.testing.assert_close(track.image[b], programs[0].renderer(objects))
            now = set(ids[ids >= 0].tolist())
            assert len(now) == int((ids >= 0).sum())
            assert not (now - before[b]) & seen[b], "an id is reused"
            num_kept += len(now & before[b])
            before[b] = now
            seen[b] |= now
    assert num_kept > 0


def test_one_video_without_a_batch_dimension(programs, frames):
    single = run(Filter(*programs, num_particles=6), frames[:, 0])
    batch = run(Filter(*programs, num_particles=6), frames[:, :1])
    for one, many in zip(single, batch, strict=True):
        assert all_equal(one, Tracks(*(field[0] for field in many)))


def test_on_the_device_under_test(programs, frames, device):
    filter = Filter(*(program.to(device) for program in programs), num_particles=3)
    for frame in frames.to(device):
        tracks = filter.update(frame)
    assert all(field.device.type == device.type for field in tracks)
    assert filter.predict(2).image.device.type == device.type


def test_reset(programs, frames):
    filter = Filter(*programs, num_particles=6)
    first = run(filter, frames)
    filter.reset()
    assert all(all_equal(*pair) for pair in zip(first, run(filter, frames), strict=True))
    filter.reset()
    assert filter.update(frames[0, 0]).ids.shape == (N,)


# ---------------------------------------------------------------- constant memory


def test_memory_does_not_grow(programs):
    filter = Filter(*programs, num_particles=3)
    frames = torch.rand(8, 1, 12, 14)

    def advance(count: int) -> tuple[int, int, int]:
        """Returns the number of Python objects, of memory blocks held by Python, and of bytes in tensors."""
        for t in range(count):
            filter.update(frames[t % 8])
        gc.collect()
        objects = gc.get_objects()
        size = sum(x.numel() * x.element_size() for x in objects if type(x) is Tensor)
        return len(objects), sys.getallocatedblocks(), size

    objects, blocks, size = advance(20)
    more_objects, more_blocks, more_size = advance(180)
    assert more_objects - objects < 180, "one new object or more per frame"
    # Pyro generates attribute names, which Python's attribute cache holds for a while; a trace has hundreds.
    assert more_blocks - blocks < 180 * 30, "30 new blocks or more per frame"
    assert more_size <= size
    assert not list(pyro.get_param_store())


# ---------------------------------------------------------------- prediction


@pytest.mark.parametrize("batch", [True, False])
def test_prediction_continues_the_particle_shown(programs, frames, batch):
    filter = Filter(*programs, num_particles=6)
    video = frames if batch else frames[:, 2]
    last = run(filter, video)[-1]
    random_state = torch.get_rng_state()
    num_kept = num_removed = 0
    for _ in range(10):
        rollout = filter.predict(4)
        lead = (4, B) if batch else (4,)
        assert rollout.image.shape == (*lead, 1, 12, 14)
        assert rollout.objects.id.shape == (*lead, N)
        torch.testing.assert_close(rollout.image, programs[0].renderer(rollout.objects))
        assert torch.equal(rollout.objects.id >= 0, rollout.objects.pres > 0)
        for old, new in zip(*(ids.reshape(-1, N).tolist() for ids in (last.ids, rollout.objects.id[0])), strict=True):
            num_kept += len(set(new) & set(old) - {-1})
            num_removed += len(set(old) - set(new) - {-1})
            assert all(i > max(old) for i in set(new) - set(old) - {-1})
    assert num_kept > num_removed > 0 or not batch  # the single video ends without objects
    # the filter has not changed
    torch.set_rng_state(random_state)
    next_tracks = filter.update(video[0])
    other = Filter(*programs, num_particles=6)
    run(other, video)
    assert all_equal(next_tracks, other.update(video[0]))


def test_average_of_predicted_counts():
    """The prior predictive distribution of a world in which objects survive with a known probability."""
    torch.set_default_dtype(torch.float64)
    world = World(num_slots=1, length=1)
    case = make_case(world)
    filter = Filter(case.model, case.guide, 4)
    shown = run(filter, case.frames[:, :1].expand(-1, 4000, -1, -1, -1))[-1].present[:, 0]
    after = filter.predict(1).objects.pres[0, :, 0]
    survival, discovery = world.survival_prob[0], world.discovery_prob[0]  # a new object can replace a removed one
    for group, exact in ((shown, survival + (1 - survival) * discovery), (~shown, discovery)):
        share = after[group].mean().item()
        assert abs(share - exact) < 4 * math.sqrt(exact * (1 - exact) / int(group.sum()))


# ---------------------------------------------------------------- invalid input


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (torch.rand(12, 14), r"frame of shape \[1, 12, 14\] or \[B, 1, 12, 14\] as a torch.Tensor, got \[12, 14\]"),
        (torch.rand(3, 12, 14), r"\[1, 12, 14\] or .* got \[3, 12, 14\]"),
        (torch.rand(2, 1, 14, 12), r"\[1, 12, 14\] or .* got \[2, 1, 14, 12\]"),
        (torch.rand(0, 1, 12, 14), r"got \[0, 1, 12, 14\]"),
        ([[0.0]], "as a torch.Tensor, got list"),
        (torch.zeros(1, 12, 14, dtype=torch.uint8), "for uint8 video divide by 255"),
        (torch.rand(1, 12, 14).double(), "like the program's weights, got torch.float64"),
        (torch.rand(1, 12, 14) * 255, "divide by 255"),
        (torch.full((1, 12, 14), math.nan), "finite values"),
    ],
)
def test_wrong_frames(programs, frame, message):
    filter = Filter(*programs, num_particles=2)
    with pytest.raises(ValueError, match=message):
        filter.update(frame)
    filter.update(torch.rand(1, 12, 14))  # the filter still works


@pytest.mark.parametrize("shape", [(2, 1, 12, 14), (1, 12, 14)])
def test_another_batch_size(programs, shape):
    filter = Filter(*programs, num_particles=2)
    filter.update(torch.rand(1, 1, 12, 14))
    with pytest.raises(ValueError, match=r"shape \[1, 1, 12, 14\] like the previous frame, .* call reset\(\)"):
        filter.update(torch.rand(shape))


def test_values_are_checked_only_under_validation(programs):
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
def test_wrong_arguments(programs, arguments, message):
    with pytest.raises(ValueError, match=message):
        Filter(*programs, **arguments)


def test_wrong_predictions(programs):
    filter = Filter(*programs, num_particles=2)
    with pytest.raises(ValueError, match="call update first"):
        filter.predict(3)
    filter.update(torch.rand(1, 12, 14))
    with pytest.raises(ValueError, match="steps of at least 1, got 0"):
        filter.predict(0)
