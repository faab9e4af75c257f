# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Rollouts: reconstruction, prediction and generation."""

import math

import pytest
import torch

from pyro_sqair.models import SQAIR
from pyro_sqair.scene.objects import Objects
from pyro_sqair.tracking.rollout import Rollout, futures, generate, infer_objects, predict, reconstruct, standing_still

N, D, T, B = 3, 2, 5, 4  # sizes of the fixtures


def check(rollout: Rollout, model: SQAIR, steps: int) -> None:
    """Checks shapes, and that the image is rendered from the objects."""
    objects = rollout.objects
    assert objects.pres.shape == objects.id.shape == (steps, B, N)
    assert objects.where.shape == (steps, B, N, 4)
    assert objects.what.shape == (steps, B, N, D)
    assert rollout.image.shape == (steps, B, 1, 12, 14)
    assert not any(field.requires_grad for field in (*objects, rollout.image))
    torch.testing.assert_close(rollout.image, model.renderer(objects))


def equal(left: Objects, right: Objects) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def seeded(seed, function, *args):
    torch.manual_seed(seed)
    return function(*args)


def test_infer_objects_samples_the_guide_once(programs, frames):
    _, guide = programs
    objects = seeded(1, infer_objects, guide, frames)
    assert not objects.where.requires_grad
    for t, state in enumerate(seeded(1, guide, frames)):
        assert torch.equal(objects.what[t], state.objects.what)
        assert torch.equal(objects.id[t], state.objects.id)


@pytest.mark.parametrize("steps", [T, T + 1, T + 3])
def test_prediction_continues_the_inferred_objects(programs, frames, steps):
    model, guide = programs
    rollout = seeded(1, predict, model, guide, frames, steps)
    check(rollout, model, steps)
    inferred = seeded(1, infer_objects, guide, frames)
    assert equal(Objects(*(field[:T] for field in rollout.objects)), inferred)
    if steps == T:
        reconstruction = seeded(1, reconstruct, model, guide, frames)
        assert equal(reconstruction.objects, inferred)
        assert torch.equal(reconstruction.image, rollout.image)
    num_kept = 0
    for t in range(T, steps):
        for b in range(B):
            before, now, seen = (
                set(ids.flatten().tolist()) - {-1}
                for ids in (rollout.objects.id[t - 1, b], rollout.objects.id[t, b], rollout.objects.id[:t, b])
            )
            assert not (now - before) & seen, "an id is reused"
            num_kept += len(now & before)
    assert num_kept > 0 or steps == T


def test_futures_differ_after_the_frames_seen(programs, frames):
    first, second = futures(*programs, frames[:2], 5, 2)
    check(first, programs[0], 5)
    for a, b in zip((*first.objects, first.image), (*second.objects, second.image), strict=True):
        assert torch.equal(a[:2], b[:2])
    kept = (first.objects.id[2] >= 0) & (first.objects.id[2] == second.objects.id[2])
    assert kept.any() and not (first.objects.where[2] == second.objects.where[2])[kept].any()


def test_generation(programs, frames):
    """It depends on the size of the frames, not on their values."""
    model, _ = programs
    rollout = seeded(1, generate, model, frames, 6)
    check(rollout, model, 6)
    assert equal(rollout.objects, seeded(1, generate, model, torch.zeros_like(frames[:1]), 6).objects)
    assert not equal(rollout.objects, seeded(2, generate, model, frames, 6).objects)


def test_generation_with_given_counts(programs, frames):
    count = torch.arange(B) % (N + 1)
    rollout = generate(programs[0], frames, 2, count)
    assert torch.equal(rollout.objects.pres[0].sum(-1).long(), count)
    assert torch.equal((rollout.objects.id[0] >= 0).sum(-1), count)


def test_dtype(programs, frames):
    model, guide = (program.double() for program in programs)
    assert predict(model, guide, frames.double(), 6).image.dtype == torch.float64
    assert generate(model, frames.double(), 6).image.dtype == torch.float64


def test_standing_still_repeats_the_last_frame_seen():
    objects = Objects(
        torch.rand(5, 2, 3), torch.rand(5, 2, 3, 4), torch.rand(5, 2, 3, 1), torch.arange(30).view(5, 2, 3)
    )
    rollout = Rollout(objects, torch.rand(5, 2, 1, 4, 4))
    still = standing_still(rollout, 2)
    for before, after in zip((*rollout.objects, rollout.image), (*still.objects, still.image), strict=True):
        assert torch.equal(after[:2], before[:2])
        assert all(torch.equal(after[t], before[1]) for t in range(2, 5))


class TestErrors:
    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (lambda frames: frames + math.nan, "finite values"),
            (lambda frames: frames * 255, "divide by 255"),
            (lambda frames: frames - 0.5, r"in \[0, 1\]"),
            (lambda frames: frames.double(), r"expected torch.float32 frames on cpu.*got torch.float64"),
            (lambda frames: frames.numpy(), "expected frames as a torch.Tensor, got ndarray"),
            (lambda frames: frames[:, :0], "at least one sequence"),
            (lambda frames: frames[:0], "expected at least one frame"),
        ],
    )
    def test_wrong_frames(self, programs, frames, wrong, message):
        model, guide = programs
        frames = wrong(frames)
        for run in (
            lambda: infer_objects(guide, frames),
            lambda: reconstruct(model, guide, frames),
            lambda: predict(model, guide, frames, len(frames)),
        ):
            with pytest.raises(ValueError, match=message):
                run()

    def test_wrong_number_of_steps(self, programs, frames):
        with pytest.raises(ValueError, match="expected steps of at least the 5 frames that are seen, got 3"):
            predict(*programs, frames, 3)
        with pytest.raises(ValueError, match="expected at least one frame"):
            generate(programs[0], frames, 0)

    def test_generation_of_an_empty_batch(self, programs, frames):
        with pytest.raises(ValueError, match="at least one sequence"):
            generate(programs[0], frames[:, :0], 3)

    @pytest.mark.parametrize("count", [[0, 5], [-1, 0], [1]])
    def test_wrong_counts(self, programs, frames, count):
        with pytest.raises(ValueError, match=f"expected {B} counts from 0 to"):
            generate(programs[0], frames, 2, torch.tensor(count))
