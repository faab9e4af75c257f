# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Splitting and joining batches, and the fixed held-out set."""

import pytest
import torch

from pyro_sqair.data import Physics, Sequences, draw_chunks, held_out


class NumberedSource:
    """Sequences whose pixels and labels are their running number and a draw from the generator."""

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


def test_split_then_cat_restores_everything(assert_same):
    whole = held_out(NumberedSource(), 11, 3, seed=4)
    parts = list(whole.split(4))
    assert [part.labels.shape[0] for part in parts] == [4, 4, 3]
    for part in parts:  # every field of a part speaks of the same sequences
        assert torch.equal(part.frames[0, :, 0, 0, 0].long(), part.labels[:, 0])
        assert part.boxes.shape == (3, part.labels.shape[0], 1, 4)
    assert_same(Sequences.cat(parts), whole)


def with_time(sequences):
    """Every field that has a time axis, by its name."""
    fields = sequences._asdict()
    physics = fields.pop("physics")
    fields.pop("labels")
    return fields | ({} if physics is None else physics._asdict())


@pytest.mark.parametrize("physics", [True, False])
def test_slice_takes_the_same_of_every_field(make_sequences, physics):
    whole = make_sequences(6, length=5, physics=physics)
    index = torch.tensor([4, 1, 1])
    for sequences, frames in ((slice(1, 4), slice(None)), (slice(None), slice(1, 5, 2)), (index, slice(2, 3))):
        part = whole.slice(sequences, frames)
        assert (part.physics is not None) == physics
        assert torch.equal(part.labels, whole.labels[sequences])
        given = with_time(whole)
        for name, values in with_time(part).items():
            expected = torch.stack([frame[sequences] for frame in given[name].unbind(0)][frames])
            assert torch.equal(values, expected), name


def test_physics_is_split_and_joined_with_the_rest(make_sequences, assert_same):
    whole = make_sequences(7)
    parts = list(whole.split(3))
    assert [part.physics.events.shape for part in parts] == [(4, 3), (4, 3), (4, 1)]
    for i, part in enumerate(parts):
        assert_same(part, whole.slice(slice(3 * i, 3 * i + 3)))
    assert_same(Sequences.cat(parts), whole)


def test_physics_that_only_some_have_is_dropped(make_sequences, assert_same):
    known, unknown = make_sequences(2), make_sequences(3, seed=1, physics=False)
    both = Sequences.cat([known, unknown])
    assert both.physics is None and both.frames.shape[1] == 5
    assert_same(both.slice(slice(0, 2)), known._replace(physics=None))


def test_to_moves_every_field(make_sequences, device):
    whole = make_sequences(2)
    moved = whole.to("meta")
    fields = [*moved[:-1], *moved.physics]
    assert len(fields) == 10 and all(field.device.type == "meta" for field in fields)
    assert [field.shape for field in fields] == [field.shape for field in (*whole[:-1], *whole.physics)]
    there = whole.to(device)
    assert there.frames.device.type == device.type and isinstance(there.physics, Physics)
    assert there._replace(physics=None).to("cpu").physics is None


def test_chunks_are_the_held_out_set(assert_same):
    chunks = list(draw_chunks(NumberedSource(), 510, 2, seed=3))
    assert [chunk.labels.shape[0] for chunk in chunks] == [250, 250, 10]
    assert_same(Sequences.cat(chunks), held_out(NumberedSource(), 510, 2, seed=3))


@pytest.mark.parametrize("n", [1, 250, 600])
def test_held_out_has_n_distinct_sequences_fixed_by_the_seed(n):
    first, again, other = (held_out(NumberedSource(), n, 2, seed) for seed in (1, 1, 2))
    assert first.frames.shape == (2, n, 1, 2, 2)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.labels, other.labels)
    # Two of 600 numbers below a million coincide now and then; whole chunks that repeat would halve the set.
    assert len(first.labels.unique()) > 0.99 * n


def test_held_out_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    held_out(NumberedSource(), 5, 2, seed=0)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("n", "length"), [(0, 3), (3, 0), (-1, 3)])
def test_held_out_refuses_an_empty_set(n, length):
    with pytest.raises(ValueError, match=f"expected n and length of at least 1, got {n} and {length}"):
        held_out(NumberedSource(), n, length, seed=0)


def test_split_refuses_an_empty_batch():
    with pytest.raises(ValueError, match="expected a batch size of at least 1, got 0"):
        next(held_out(NumberedSource(), 2, 1, seed=0).split(0))
