# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Reading files of sequences: exact content, from the file or memory, in any process; uniform random windows."""

import math
import os

import pytest
import torch
from torch.utils.data import DataLoader

from pyro_sqair.data import SequenceDataset, Sequences
from pyro_sqair.data.files import dataset
from pyro_sqair.data.files.dataset import StoredSequences, gather
from pyro_sqair.data.files.format import Layout

N, T = 70, 6


@pytest.fixture
def whole(make_sequences):
    """70 sequences; the first two pixels of a frame hold the indices of the sequence and the frame."""
    whole = make_sequences(N, length=T)
    whole.frames[..., 0, 0] = torch.arange(N).view(1, N, 1) * (1 / 255)
    whole.frames[..., 0, 1] = torch.arange(T).view(T, 1, 1) * (1 / 255)
    return whole


@pytest.fixture
def path(tmp_path, whole, write):
    return write(tmp_path / "a.h5", *whole.split(32), generator="test", seed=9, parameters={"a": 1})


IN_MEMORY = pytest.mark.parametrize("in_memory", [False, True], ids=["file", "memory"])


def seeded(seed, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


@IN_MEMORY
def test_reading_returns_what_was_written(path, whole, in_memory, device, assert_same):
    dataset = SequenceDataset(path, in_memory, device)
    read = dataset.read()
    assert read.frames.device.type == device.type
    assert_same(read.to("cpu"), whole)
    assert all(field.is_contiguous() for field in read)
    assert len(dataset) == N and dataset.layout == (N, T, (5, 7), 1, 3, True, "test", 9, {"a": 1})
    assert dataset.most_objects == whole.count.max() == 3
    assert_same(dataset[2].to("cpu"), whole.slice([2]))
    assert sum(one.labels.shape[0] for one in dataset) == N


@IN_MEMORY
def test_colour_and_missing_annotations(tmp_path, make_sequences, write, in_memory, assert_same):
    batch = make_sequences(3, channels=3, collisions=False)
    batch = batch._replace(count=torch.full_like(batch.count, -1))
    dataset = SequenceDataset(write(tmp_path / "a.h5", batch), in_memory)
    assert_same(dataset.read(), batch)
    assert dataset.layout[5:] == (False, "unknown", None, {}) and dataset.most_objects is None


@IN_MEMORY
@pytest.mark.parametrize("frames", [slice(None), slice(2, 5), slice(1, None, 2), slice(-2, None), slice(0, 100)])
@pytest.mark.parametrize(
    "sequences", [slice(60, 68), slice(None, None, -9), [3, 4, 5, 60, 5, -1], [4], torch.tensor([69, 0])]
)
def test_parts_are_read_in_the_given_order(path, whole, in_memory, sequences, frames, assert_same):
    index = torch.arange(N)[list(range(N)[sequences]) if isinstance(sequences, slice) else sequences]
    assert_same(SequenceDataset(path, in_memory).read(sequences, frames), whole.slice(index, frames))


@IN_MEMORY
@pytest.mark.parametrize("length", [1, 3, T])
def test_a_sample_has_windows_of_distinct_sequences_in_every_field(path, whole, in_memory, length, device, assert_same):
    dataset = SequenceDataset(path, in_memory, device)
    generator = seeded(1, device)
    starts = set()
    for _ in range(10):
        batch = dataset.sample(16, length, generator).to("cpu")
        which, when = (batch.frames[:, :, 0, 0, :2] * 255).round().long().unbind(-1)
        assert bool((which == which[0]).all()) and len(which[0].unique()) == 16
        assert bool((when.diff(dim=0) == 1).all()) and when.shape == (length, 16)
        starts |= set(when[0].tolist())
        places = zip(which[0].tolist(), when[0].tolist(), strict=True)
        assert_same(batch, Sequences.cat([whole.slice([b], slice(t, t + length)) for b, t in places]))
    assert starts == set(range(T - length + 1))


def test_the_generator_determines_the_sample_from_file_and_memory(path, assert_same):
    from_file, from_memory = SequenceDataset(path), SequenceDataset(path, in_memory=True)
    before = torch.get_rng_state()
    first = from_file.sample(20, 3, seeded(5))
    assert_same(first, from_memory.sample(20, 3, seeded(5)))
    assert not torch.equal(first.frames, from_file.sample(20, 3, seeded(6)).frames)
    assert torch.equal(before, torch.get_rng_state())


def test_memory_holds_bytes_and_does_not_need_the_file(path, whole, assert_same):
    in_memory, from_file = SequenceDataset(path, in_memory=True), SequenceDataset(path)
    assert in_memory._memory["frames"].dtype == torch.uint8
    path.unlink()
    assert_same(in_memory.read(), whole)
    with pytest.raises(FileNotFoundError, match="found nothing"):
        from_file.read([0])


def test_only_what_is_requested_is_read(path, monkeypatch):
    sizes = []

    def counted(*arguments):
        values = gather(*arguments)
        sizes.append(values.numel())
        return values

    opened = SequenceDataset(path)
    monkeypatch.setattr(dataset, "gather", counted)
    opened.read([7], slice(2, 4))
    # Two frames of 35 pixels, 35 collisions, count, and presence, box and id of 3 objects; and 3 labels.
    assert sum(sizes) == 2 * (35 + 35 + 1 + 3 * (1 + 4 + 1)) + 3


@pytest.mark.parametrize(
    ("workers", "start"), [(0, None), (2, "fork"), pytest.param(2, "spawn", marks=pytest.mark.slow)]
)
def test_a_loader_gives_batches(path, whole, workers, start, assert_same):
    dataset = SequenceDataset(path)
    loader = DataLoader(
        dataset, batch_size=16, collate_fn=Sequences.cat, num_workers=workers, multiprocessing_context=start
    )
    batches = list(loader)
    assert [batch.frames.shape[1] for batch in batches] == [16, 16, 16, 16, 6]
    assert_same(Sequences.cat(batches), whole)


def test_reading_leaves_no_file_open(path):
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    SequenceDataset(path).read([0])
    assert before is None or len(os.listdir("/proc/self/fd")) == before


class Windows(StoredSequences):
    """7 sequences of 9 frames that return the windows instead of their content."""

    def __init__(self, device="cpu"):
        self.layout, self.device = Layout(7, 9, (1, 1), 1, 1, False, "test", None, {}), torch.device(device)

    def _load(self, index, starts, length):
        return index, starts, length


def test_sequences_and_starts_are_uniform_and_independent():
    draws, batch, length, generator = 3000, 3, 4, seeded(0)
    windows = [Windows().sample(batch, length, generator) for _ in range(draws)]
    sequences = torch.stack([index for index, _, _ in windows])
    starts = torch.stack([start for _, start, _ in windows])
    # Each sequence is in a batch with probability 3/7; each of 6 starts is drawn with probability 1/6.
    for values, kinds, expected, trials in ((sequences, 7, 3 / 7, draws), (starts, 6, 1 / 6, draws * batch)):
        frequency = values.flatten().bincount(minlength=kinds) / trials
        error = math.sqrt(expected * (1 - expected) / trials)
        assert len(frequency) == kinds and (frequency - expected).abs().max() < 4 * error
    assert len(starts[:, :2].unique(dim=0)) == 36  # all pairs of starts of the first two sequences


@pytest.mark.parametrize("batch", [1, 5, 7, 17])
def test_sequences_of_a_batch_occur_equally_often_up_to_one(batch):
    generator = seeded(1)
    for _ in range(50):
        counts = Windows().sample(batch, 2, generator)[0].bincount(minlength=7)
        assert counts.sum() == batch and counts.max() - counts.min() <= 1


@pytest.mark.parametrize(
    ("arguments", "device", "message"),
    [
        ((0, 2), "cpu", "expected batch and length of at least 1, got 0 and 2"),
        ((2, 0), "cpu", "expected batch and length of at least 1, got 2 and 0"),
        ((2, 10), "cpu", "expected a length of at most 9, the frames in a sequence, got 10"),
        ((2, 2), "meta", "expected a generator on meta, got one on cpu"),
    ],
)
def test_impossible_samples_are_refused(arguments, device, message):
    with pytest.raises(ValueError, match=message):
        Windows(device).sample(*arguments, seeded(0))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([7],), IndexError, "expected sequences from 0 to 6, got 7 to 7"),
        (([0, -8],), IndexError, "expected sequences from 0 to 6, got -8 to 0"),
        (([],), ValueError, "expected at least one sequence of 7, got .*"),
        ((slice(9, 12),), ValueError, "expected at least one sequence of 7, got slice"),
        (([[1]],), ValueError, "expected at least one sequence of 7"),
        (([1], slice(3, 3)), ValueError, "expected at least one of 9 frames, in order, got slice"),
        (([1], slice(None, None, -1)), ValueError, "expected at least one of 9 frames, in order"),
    ],
)
def test_impossible_selections_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Windows().read(*arguments)
