# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Reading files of sequences: all that was written, from disk or memory, in any process."""

import math
import os
import pickle

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pyro_sqair.data import SequenceDataset, Sequences, SequenceWriter, held_out

N, T = 70, 6


@pytest.fixture
def whole(make_sequences):
    """70 sequences; the first two pixels of a frame say which sequence and which frame it is."""
    whole = make_sequences(N, length=T)
    whole.frames[..., 0, 0] = torch.arange(N).view(1, N, 1) * (1 / 255)
    whole.frames[..., 0, 1] = torch.arange(T).view(T, 1, 1) * (1 / 255)
    return whole


@pytest.fixture
def path(tmp_path, whole):
    path = tmp_path / "a.h5"
    with SequenceWriter(
        path,
        num_frames=T,
        image_size=(5, 7),
        max_objects=3,
        generator="test",
        seed=9,
        parameters={"a": 1},
        physics=True,
    ) as writer:
        for batch in whole.split(32):
            writer.append(batch)
    return path


IN_MEMORY = pytest.mark.parametrize("in_memory", [False, True], ids=["disk", "memory"])


def seeded(seed, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


@IN_MEMORY
def test_what_was_written_is_read(path, whole, in_memory, device, assert_same):
    dataset = SequenceDataset(path, in_memory, device)
    read = dataset.read()
    assert read.frames.device.type == device.type
    assert_same(read.to("cpu"), whole)
    assert all(field.is_contiguous() for field in (*read[:-1], *read.physics))
    assert len(dataset) == N and dataset.num_frames == T and dataset.image_size == (5, 7)
    assert (dataset.channels, dataset.max_objects) == (1, 3)
    assert (dataset.generator, dataset.seed, dataset.parameters) == ("test", 9, {"a": 1})
    assert f"a.h5': {N} sequences of {T} frames, 5x7x1, at most 3 objects, by test" in repr(dataset)


@IN_MEMORY
@pytest.mark.parametrize("frames", [slice(None), slice(2, 5), slice(1, None, 2)])
@pytest.mark.parametrize("sequences", [slice(60, 68), [3, 4, 5, 60, 5, -1], torch.tensor([69, 0])])
def test_parts_are_read_in_the_order_asked_for(path, whole, in_memory, sequences, frames, assert_same):
    index = sequences if isinstance(sequences, slice) else torch.as_tensor(sequences) % N
    assert_same(SequenceDataset(path, in_memory).read(sequences, frames), whole.slice(index, frames))


@IN_MEMORY
def test_without_physics_and_with_colour(tmp_path, make_sequences, in_memory, assert_same):
    batch = make_sequences(3, channels=3, physics=False)
    with SequenceWriter(tmp_path / "a.h5", num_frames=4, image_size=(5, 7), channels=3, max_objects=3) as writer:
        writer.append(batch)
    dataset = SequenceDataset(tmp_path / "a.h5", in_memory)
    assert_same(dataset.read(), batch)
    assert dataset.seed is None and dataset.parameters == {} and dataset.generator == "unknown"


@IN_MEMORY
@pytest.mark.parametrize("length", [1, 3, T])
def test_a_sample_is_windows_of_distinct_sequences_in_every_field(path, whole, in_memory, length, device, assert_same):
    dataset = SequenceDataset(path, in_memory, device)
    generator = seeded(1, device)
    starts = set()
    for _ in range(10):
        batch = dataset.sample(16, length, generator).to("cpu")
        which = (batch.frames[:, :, 0, 0, 0] * 255).round().long()
        when = (batch.frames[:, :, 0, 0, 1] * 255).round().long()
        assert bool((which == which[0]).all()) and len(which[0].unique()) == 16
        assert bool((when.diff(dim=0) == 1).all()) and when.shape == (length, 16)
        starts |= set(when[0].tolist())
        expected = [
            whole.slice([b], slice(t, t + length)) for b, t in zip(which[0].tolist(), when[0].tolist(), strict=True)
        ]
        assert_same(batch, Sequences.cat(expected))
    assert starts == set(range(T - length + 1))


def test_disk_and_memory_draw_the_same_and_the_generator_decides(path, assert_same):
    disk, memory = SequenceDataset(path), SequenceDataset(path, in_memory=True)
    before = torch.get_rng_state()
    first = disk.sample(20, 3, seeded(5))
    assert_same(first, memory.sample(20, 3, seeded(5)))
    assert not torch.equal(first.frames, disk.sample(20, 3, seeded(6)).frames)
    assert torch.equal(before, torch.get_rng_state())
    assert_same(held_out(disk, 100, 2, seed=1), held_out(memory, 100, 2, seed=1))


def test_memory_holds_pixels_as_bytes_and_leaves_the_file_alone(path, whole, assert_same):
    dataset = SequenceDataset(path, in_memory=True)
    assert dataset._storage._values["frames"].dtype == torch.uint8
    path.unlink()
    assert_same(dataset.read(), whole)


def test_only_what_is_asked_for_is_read(path, monkeypatch):
    read = []
    original = h5py.h5s.create_simple

    def counting(shape):
        read.append(math.prod(shape))
        return original(shape)

    monkeypatch.setattr(h5py.h5s, "create_simple", counting)
    dataset = SequenceDataset(path)
    assert read == []
    dataset.read([7], slice(2, 4))
    # Numbers in a frame: 35 pixels, 35 collisions, count, event; of 3 objects presence, box, id, position, velocity.
    assert sum(read) == 2 * (35 + 35 + 1 + 1 + 3 * (1 + 4 + 1 + 2 + 2)) + 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_batches(path, whole, workers, assert_same):
    dataset = SequenceDataset(path)
    dataset.read([0])  # so that forked workers inherit an open file
    loader = DataLoader(dataset, batch_size=16, collate_fn=Sequences.cat, num_workers=workers)
    for _ in range(2):
        batches = list(loader)
        assert [batch.frames.shape[1] for batch in batches] == [16, 16, 16, 16, 6]
        assert_same(Sequences.cat(batches), whole)
    assert_same(dataset.read(), whole)


@pytest.mark.slow
def test_a_loader_with_spawned_workers_gives_batches(path, whole, assert_same):
    dataset = SequenceDataset(path)
    dataset.read([0])
    loader = DataLoader(
        dataset, batch_size=16, collate_fn=Sequences.cat, num_workers=2, multiprocessing_context="spawn"
    )
    assert_same(Sequences.cat(list(loader)), whole)


@IN_MEMORY
def test_a_pickled_dataset_reads_the_same(path, whole, in_memory, assert_same):
    dataset = SequenceDataset(path, in_memory)
    dataset.read([0])
    assert_same(pickle.loads(pickle.dumps(dataset)).read(), whole)
    if not in_memory:
        assert len(pickle.dumps(dataset)) < 3000


def test_a_forked_process_opens_the_file_for_itself(path):
    dataset = SequenceDataset(path)
    dataset.read([0])
    ours = dataset._handle.open()
    child = os.fork()
    if child == 0:  # no assert in here: it would run the rest of the tests twice
        theirs = dataset._handle.open()
        same = theirs is ours or theirs.id.get_vfd_handle() == -1
        right = torch.equal(dataset.read([3]).labels, SequenceDataset(path).read([3]).labels)
        os._exit(0 if right and not same and not ours.id.valid else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert dataset._handle.open() is ours and bool(ours)


def test_closing_lets_go_of_the_file_until_it_is_read_again(path, whole, assert_same):
    with SequenceDataset(path) as dataset:
        dataset.read([0])
        file = dataset._handle.open()
        assert bool(file)
    assert not bool(file)
    assert_same(dataset[2], whole.slice([2]))
    dataset.close()
    dataset.close()


def test_more_frames_than_there_are_is_an_error(path):
    for in_memory in (False, True):
        with pytest.raises(
            ValueError, match=f"expected a length of at most {T}, the frames in a sequence, got {T + 1}"
        ):
            SequenceDataset(path, in_memory).sample(2, T + 1, seeded(0))
    with pytest.raises(IndexError, match=f"expected sequences from 0 to {N - 1}, got {N} to {N}"):
        SequenceDataset(path)[N]


def test_iterating_ends(path):
    assert sum(one.labels.shape[0] for one in SequenceDataset(path)) == N


def test_damaged_pixels_are_named(path, whole, assert_same):
    with h5py.File(path) as file:
        chunk = file["frames"].id.get_chunk_info(5)
    data = bytearray(path.read_bytes())
    for i in range(chunk.byte_offset + 20, chunk.byte_offset + 40):
        data[i] ^= 0xFF
    path.write_bytes(data)
    dataset = SequenceDataset(path)
    assert_same(dataset.read([4]), whole.slice([4]))
    with pytest.raises(ValueError, match="expected readable frames of sequences 5 to 5 in .*a.h5, got damaged ones"):
        dataset.read([5])


def test_other_programs_may_write_truth_as_bytes_and_text_as_bytes(path, whole, assert_same):
    with h5py.File(path, "r+") as file:
        for name in ("present", "collisions", "events"):
            values = file[name][...]
            del file[name]
            file[name] = values.astype(np.uint8)
        for name in ("format", "generator", "parameters"):
            file.attrs[name] = np.bytes_(file.attrs[name])
        file["remark"] = "what else there is does not matter"
    dataset = SequenceDataset(path)
    assert_same(dataset.read(), whole)
    assert (dataset.generator, dataset.parameters) == ("test", {"a": 1})
