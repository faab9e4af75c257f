# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Splitting and joining batches, and the fixed held-out set."""

import pytest
import torch

from pyro_sqair.data import Sequences, held_out


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


def test_split_then_cat_restores_everything():
    whole = held_out(NumberedSource(), 11, 3, seed=4)
    parts = list(whole.split(4))
    assert [part.labels.shape[0] for part in parts] == [4, 4, 3]
    for part in parts:  # every field of a part speaks of the same sequences
        assert torch.equal(part.frames[0, :, 0, 0, 0].long(), part.labels[:, 0])
        assert part.boxes.shape == (3, part.labels.shape[0], 1, 4)
    for before, after in zip(whole, Sequences.cat(parts), strict=True):
        assert torch.equal(before, after)


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
