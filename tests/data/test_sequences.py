# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Batches and their pixels, visible objects, and the fixed held-out set."""

import numpy as np
import pytest
import torch

from pyro_sqair.data import (
    BouncingBalls,
    MovingDigits,
    Sequences,
    embedded_digits,
    four_balls,
    from_uint8,
    gentle_motion,
    held_out,
    only_visible,
    quantise,
)
from pyro_sqair.data.sequences import draw_chunks, to_uint8

BYTES = torch.arange(256, dtype=torch.uint8)


class NumberedSource:
    """Sequences whose pixels and labels are draws from the generator."""

    device = torch.device("cpu")

    def sample(self, batch: int, length: int, generator: torch.Generator) -> Sequences:
        draw = torch.randint(1 << 20, (batch, 1), generator=generator)
        return Sequences(
            frames=draw.float().reshape(1, batch, 1, 1, 1).expand(length, batch, 1, 2, 2),
            count=torch.ones(length, batch, dtype=torch.int64),
            present=torch.ones(length, batch, 1, dtype=torch.bool),
            boxes=torch.zeros(length, batch, 1, 4),
            ids=torch.zeros(length, batch, 1, dtype=torch.int64),
            labels=draw,
        )


@pytest.mark.parametrize("collisions", [True, False])
def test_slice_selects_the_same_in_every_field(make_sequences, collisions):
    whole = make_sequences(6, length=5, collisions=collisions)
    index = torch.tensor([4, 1, 1])
    for sequences, frames in ((slice(1, 4), slice(None)), (slice(None), slice(1, 5, 2)), (index, slice(2, 3))):
        part = whole.slice(sequences, frames)
        assert (part.collisions is not None) == collisions
        assert torch.equal(part.labels, whole.labels[sequences])
        for name, values in part._replace(labels=None)._asdict().items():
            if values is not None:
                expected = torch.stack([frame[sequences] for frame in getattr(whole, name).unbind(0)][frames])
                assert torch.equal(values, expected), name


def test_split_and_cat_include_collisions_if_all_batches_have_them(make_sequences, assert_same):
    whole = make_sequences(7)
    parts = list(whole.split(3))
    assert [part.collisions.shape for part in parts] == [(4, 3, 5, 7), (4, 3, 5, 7), (4, 1, 5, 7)]
    for i, part in enumerate(parts):
        assert_same(part, whole.slice(slice(3 * i, 3 * i + 3)))
    assert_same(Sequences.cat(parts), whole)
    both = Sequences.cat([whole, make_sequences(3, seed=1, collisions=False)])
    assert both.collisions is None and both.frames.shape[1] == 10
    assert_same(both.slice(slice(0, 7)), whole._replace(collisions=None))


def test_to_moves_every_field(make_sequences, device):
    whole = make_sequences(2)
    moved = whole.to("meta")
    assert len(moved) == 7 and all(field.device.type == "meta" for field in moved)
    assert [field.shape for field in moved] == [field.shape for field in whole]
    assert whole.to(device).frames.device.type == device.type
    assert whole._replace(collisions=None).to("cpu").collisions is None


def test_chunks_are_the_held_out_set(assert_same):
    chunks = list(draw_chunks(NumberedSource(), 510, 2, seed=3))
    assert [chunk.labels.shape[0] for chunk in chunks] == [250, 250, 10]
    assert_same(Sequences.cat(chunks), held_out(NumberedSource(), 510, 2, seed=3))


@pytest.mark.parametrize("n", [1, 250, 600])
def test_held_out_has_n_distinct_sequences_determined_by_the_seed(n):
    before = torch.get_rng_state()
    first, again, other = (held_out(NumberedSource(), n, 2, seed) for seed in (1, 1, 2))
    assert first.frames.shape == (2, n, 1, 2, 2)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.labels, other.labels)
    # Two of 600 numbers below a million may coincide; repeated chunks would halve the set.
    assert len(first.labels.unique()) > 0.99 * n
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("n", "length"), [(0, 3), (3, 0), (-1, 3)])
def test_empty_sets_and_batches_are_refused(n, length):
    with pytest.raises(ValueError, match=f"expected n and length of at least 1, got {n} and {length}"):
        held_out(NumberedSource(), n, length, seed=0)
    with pytest.raises(ValueError, match=f"expected a batch size of at least 1, got {min(n, 0)}"):
        next(held_out(NumberedSource(), 2, 1, seed=0).split(min(n, 0)))


def test_every_byte_is_restored_and_numpy_gives_the_same_floats(device):
    pixels = from_uint8(BYTES.to(device))
    assert pixels.dtype == torch.float32 and torch.equal(to_uint8(pixels).cpu(), BYTES)
    assert pixels[0] == 0 and pixels[255] == 1 and bool((pixels.diff() > 0).all())
    expected = BYTES.numpy().astype(np.float32) * np.float32(1 / 255)
    assert torch.equal(pixels.cpu(), torch.from_numpy(expected))


def test_quantise_finds_the_nearest_of_all_256():
    frames = torch.rand(5000, generator=torch.Generator().manual_seed(1)) * 1.2 - 0.1
    levels = from_uint8(BYTES)
    assert torch.equal(quantise(frames), levels[(frames[:, None] - levels).abs().argmin(1)])
    assert torch.equal(quantise(levels), levels)


@pytest.mark.parametrize("value", [0.5, 1.0 + 1 / 255, -1 / 255, float("nan"), float("inf"), 3 / 255 + 1e-6])
def test_pixels_that_are_not_k_255_and_other_types_are_refused(value):
    frames = from_uint8(BYTES)
    frames[17] = value
    message = f"pixels are all k/255 .* got a pixel of {float(frames[17])}; pyro_sqair.data.quantise"
    with pytest.raises(ValueError, match=message):
        to_uint8(frames)
    with pytest.raises(ValueError, match="expected float32 frames .* got torch.float64"):
        to_uint8(from_uint8(BYTES).double())


@pytest.mark.parametrize("share", [0.0, 0.06, 0.25, 0.3, 0.5, 0.6, 1.0])
def test_the_share_of_the_box_decides_whether_it_is_visible(share):
    """One object in frames of 10 x 20 pixels, and areas computed by hand."""
    shares = {
        (2.0, 2.0, 4.0, 4.0): 1.0,
        (-2.0, 2.0, 4.0, 4.0): 0.5,
        (18.0, 8.0, 4.0, 4.0): 0.25,
        (20.0, 0.0, 4.0, 4.0): 0.0,
        (-3.0, -3.0, 4.0, 4.0): 1 / 16,
    }
    one_object = Sequences(
        frames=torch.zeros(5, 1, 1, 10, 20),
        count=torch.ones(5, 1, dtype=torch.int64),
        present=torch.ones(5, 1, 1, dtype=torch.bool),
        boxes=torch.tensor([*shares]).reshape(5, 1, 1, 4),
        ids=torch.full((5, 1, 1), 3),
        labels=torch.zeros(1, 1, dtype=torch.int64),
    )
    seen = only_visible(one_object, share)
    expected = [s > 0 and s >= share for s in shares.values()]
    assert seen.present[:, 0, 0].tolist() == expected
    assert seen.count[:, 0].tolist() == [int(s) for s in expected]
    assert seen.ids[:, 0, 0].tolist() == [3 if s else -1 for s in expected]
    assert seen.boxes[:, 0, 0].abs().sum(-1).gt(0).tolist() == expected
    absent = seen._replace(present=torch.zeros_like(seen.present))
    assert not only_visible(absent, share).present.any()


def test_balls_come_and_go():
    balls = held_out(BouncingBalls(four_balls()), 20, 40, 0)
    seen = only_visible(balls)
    assert (balls.count == 4).all() and seen.count.min() < 4 and seen.count.max() == 4
    assert torch.equal(seen.frames, balls.frames) and seen.collisions is balls.collisions
    for share in (-0.1, 1.1):
        with pytest.raises(ValueError, match="expected a share from 0 to 1"):
            only_visible(balls, share)


@pytest.mark.parametrize(
    "source",
    [BouncingBalls(four_balls()), MovingDigits(embedded_digits("test"), gentle_motion())],
    ids=["balls", "digits"],
)
def test_generators_refuse_empty_batches_and_random_generators_on_another_device(source, monkeypatch):
    generator = torch.Generator()
    for batch, length in ((0, 3), (3, 0), (-2, 3)):
        with pytest.raises(ValueError, match=f"of at least 1, got {batch} and {length}"):
            source.sample(batch, length, generator)
    monkeypatch.setattr(source, "device", torch.device("meta"))
    with pytest.raises(ValueError, match="expected a generator on meta, got one on cpu"):
        source.sample(1, 1, generator)
