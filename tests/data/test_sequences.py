# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Selecting, splitting and joining batches, and the fixed held-out set."""

import pytest
import torch

from pyro_sqair.data import Sequences, draw_chunks, held_out


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
