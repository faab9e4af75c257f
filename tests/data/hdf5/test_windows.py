# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Which sequences and frames make a batch: uniform, without repetition, and put together to few readings."""

import math

import pytest
import torch

from pyro_sqair.data.hdf5.windows import Windows, chosen_windows, random_windows, runs

CPU = torch.device("cpu")


def seeded(seed, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def test_sequences_and_starts_are_uniform():
    draws, total, num_frames, length, batch = 3000, 7, 9, 4, 3
    generator = seeded(0)
    windows = [random_windows(total, num_frames, batch, length, generator, CPU) for _ in range(draws)]
    sequences = torch.stack([window.sequences for window in windows])
    starts = torch.cat([window.starts for window in windows])
    # Each sequence is in a batch with probability 3/7; each of 6 starts is drawn with probability 1/6.
    for values, kinds, expected, trials in ((sequences, 7, 3 / 7, draws), (starts, 6, 1 / 6, draws * batch)):
        frequency = values.flatten().bincount(minlength=kinds) / trials
        error = math.sqrt(expected * (1 - expected) / trials)
        assert len(frequency) == kinds and (frequency - expected).abs().max() < 4 * error
    # Starts of the sequences of a batch are independent: all 6 * 6 pairs of the first two occur.
    pairs = torch.stack([window.starts[:2] for window in windows]).unique(dim=0)
    assert len(pairs) == 36


@pytest.mark.parametrize("batch", [1, 5, 7])
def test_no_sequence_comes_twice_in_a_batch(batch):
    generator = seeded(1)
    for _ in range(50):
        assert len(random_windows(7, 3, batch, 2, generator, CPU).sequences.unique()) == batch


def test_a_batch_larger_than_the_set_takes_each_about_as_often():
    counts = random_windows(7, 3, 17, 3, seeded(2), CPU).sequences.bincount(minlength=7)
    assert counts.sum() == 17 and set(counts.tolist()) == {2, 3}


def test_the_whole_sequence_has_one_window(device):
    windows = random_windows(50, 6, 20, 6, seeded(3, device), device)
    assert bool((windows.starts == 0).all()) and windows.length == 6
    assert windows.sequences.device.type == windows.starts.device.type == device.type


def test_the_generator_fixes_the_windows():
    first, again, other = (random_windows(90, 20, 8, 3, seeded(seed), CPU) for seed in (1, 1, 2))
    assert torch.equal(first.sequences, again.sequences) and torch.equal(first.starts, again.starts)
    assert not torch.equal(first.sequences, other.sequences)


@pytest.mark.parametrize(
    ("batch", "length", "device", "message"),
    [
        (0, 2, "cpu", "expected batch and length of at least 1, got 0 and 2"),
        (2, 0, "cpu", "expected batch and length of at least 1, got 2 and 0"),
        (2, 4, "cpu", "expected a length of at most 3, the frames in a sequence, got 4"),
        (2, 2, "meta", "expected a generator on meta, got one on cpu"),
    ],
)
def test_impossible_batches_are_refused(batch, length, device, message):
    with pytest.raises(ValueError, match=message):
        random_windows(5, 3, batch, length, seeded(0), torch.device(device))


@pytest.mark.parametrize(
    "sequences", [slice(None), slice(1, 6, 2), slice(None, None, -1), [4], [3, 3, -1], torch.tensor([0, 6, 2])]
)
@pytest.mark.parametrize("frames", [slice(None), slice(2, 5), slice(1, None, 3), slice(-2, None), slice(0, 100)])
def test_chosen_windows_are_what_python_would_take(sequences, frames):
    windows, step = chosen_windows(7, 5, sequences, frames)
    index = list(range(7))[sequences] if isinstance(sequences, slice) else [range(7)[int(i)] for i in sequences]
    assert windows.sequences.tolist() == index
    for start in windows.starts.tolist():
        assert list(range(start, start + windows.length, step)) == list(range(5))[frames]


@pytest.mark.parametrize(
    ("sequences", "frames", "error", "message"),
    [
        ([7], slice(None), IndexError, "expected sequences from 0 to 6, got 7 to 7"),
        ([0, -8], slice(None), IndexError, "expected sequences from 0 to 6, got -8 to 0"),
        ([], slice(None), ValueError, "expected at least one sequence of 7, got .*"),
        (slice(9, 12), slice(None), ValueError, "expected at least one sequence of 7, got slice"),
        ([[1]], slice(None), ValueError, "expected at least one sequence of 7"),
        ([1], slice(3, 3), ValueError, "expected frames in order, at least one of 5, got slice"),
        ([1], slice(None, None, -1), ValueError, "expected frames in order"),
    ],
)
def test_impossible_choices_are_refused(sequences, frames, error, message):
    with pytest.raises(error, match=message):
        chosen_windows(7, 5, sequences, frames)


def test_runs_cover_the_batch_once_and_are_as_few_as_can_be():
    generator = seeded(4)
    for _ in range(200):
        sequences = torch.randint(4, (8,), generator=generator)
        starts = torch.randint(2, (8,), generator=generator)
        found = runs(Windows(sequences, starts, 1))
        covered = [(r.sequence + i, r.start) for r in found for i in range(r.last - r.first)]
        assert covered == list(zip(sequences.tolist(), starts.tolist(), strict=True))
        assert [r.first for r in found] + [8] == [0] + [r.last for r in found]
        breaks = (sequences.diff() != 1) | (starts.diff() != 0)
        assert len(found) == 1 + int(breaks.sum())
