# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Files of sequences: what is in them, what may not be, and what is overwritten when."""

import hashlib
import json
import weakref

import h5py
import numpy as np
import pytest
import torch

from pyro_sqair.data import (
    MovingDigits,
    SequenceDataset,
    SequenceWriter,
    embedded_digits,
    gentle_motion,
    held_out,
    published_motion,
    write_batches,
    write_sequences,
)

SIZES = {"num_frames": 4, "image_size": (5, 7), "max_objects": 3}
TYPES = {
    "frames": "uint8",
    "count": "int64",
    "present": "bool",
    "boxes": "float32",
    "ids": "int64",
    "labels": "int64",
    "positions": "float32",
    "velocities": "float32",
    "collisions": "bool",
    "events": "bool",
}


class RandomSource:
    """Draws frames from the generator, and remembers its batches only as long as someone else does."""

    device = torch.device("cpu")

    def __init__(self, make, physics=True):
        self.make, self.physics, self.alive = make, physics, []

    def sample(self, batch, length, generator):
        seed = int(torch.randint(1 << 30, (), generator=generator))
        made = self.make(batch, length, seed=seed, physics=self.physics)
        self.alive = [frames for frames in self.alive if frames() is not None] + [weakref.ref(made.frames)]
        return made


def content_hash(path):
    """Of every attribute and every byte of every dataset, in the order of their names."""
    digest = hashlib.sha256()
    with h5py.File(path) as file:
        for name in sorted(file.attrs):
            digest.update(repr((name, file.attrs[name])).encode())
        for name in sorted(file):
            values = file[name][...]
            digest.update(repr((name, values.dtype, values.shape)).encode() + values.tobytes())
    return digest.hexdigest()


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("physics", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_file_holds_what_was_appended_sequence_first(tmp_path, make_sequences, physics, channels):
    path = tmp_path / "new" / "a.h5"
    batches = [make_sequences(size, channels=channels, seed=size, physics=physics) for size in (3, 1, 70)]
    with SequenceWriter(path, channels=channels, physics=physics, **SIZES) as writer:
        for batch, total in zip(batches, (3, 4, 74), strict=True):
            writer.append(batch)
            assert len(writer) == total
    with h5py.File(path) as file:
        assert set(file) == {name for name in TYPES if physics or name not in list(TYPES)[6:]}
        for name, dataset in file.items():
            assert dataset.dtype.name == TYPES[name] and len(dataset) == 74
            owners = [batch.physics if list(TYPES).index(name) >= 6 else batch for batch in batches]
            values = [getattr(owner, name).numpy() for owner in owners]
            by_sequence = [
                v[s] if name == "labels" else v[:, s] for v in values for s in range(v.shape[name != "labels"])
            ]
            if name == "frames":
                # Back to bytes, and channels last.
                by_sequence = [
                    np.rint(v.astype(float) * 255).astype(np.uint8).transpose(0, 2, 3, 1) for v in by_sequence
                ]
            assert np.array_equal(dataset[...], np.stack(by_sequence)), name
        assert file["frames"].chunks == (1, 4, 5, 7, channels) and file["frames"].compression == "gzip"


def test_attributes(tmp_path, make_sequences):
    parameters = {"speed": 2.5, "name": "ü", "nested": {"b": [1, 2], "a": None}}
    path = tmp_path / "a.h5"
    with SequenceWriter(path, generator="test", seed=-7, parameters=parameters, **SIZES) as writer:
        writer.append(make_sequences(1, physics=False))
    with h5py.File(path) as file:
        attributes = dict(file.attrs)
    assert json.loads(attributes.pop("parameters")) == parameters
    expected = {"format": "pyro_sqair.sequences", "version": 1, "generator": "test", "seed": -7, "complete": True}
    assert attributes == expected


def test_without_a_seed_there_is_no_such_attribute(tmp_path, make_sequences):
    with SequenceWriter(tmp_path / "a.h5", **SIZES) as writer:
        writer.append(make_sequences(1))  # with physics, which this file does not keep
    with h5py.File(tmp_path / "a.h5") as file:
        assert "seed" not in file.attrs and "positions" not in file


@pytest.mark.parametrize("motion", [published_motion(), gentle_motion()], ids=["published", "gentle"])
def test_from_file_and_on_the_fly_are_the_same_tensors(tmp_path, assert_same, motion):
    source = MovingDigits(embedded_digits("test"), motion)
    path = tmp_path / "digits.h5"
    write_sequences(path, source, 260, 6, 5, generator="moving-digits", progress=False)
    expected = held_out(source, 260, 6, 5)
    assert_same(SequenceDataset(path).read(), expected)
    assert_same(SequenceDataset(path, in_memory=True).read(), expected)


def test_a_seed_fixes_the_content(tmp_path, make_sequences):
    hashes, files = {}, {}
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        path = tmp_path / f"{name}.h5"
        write_sequences(path, RandomSource(make_sequences), 300, 4, seed, generator="test", progress=False)
        hashes[name], files[name] = content_hash(path), path.read_bytes()
    assert hashes["a"] == hashes["b"] != hashes["c"]
    assert files["a"] == files["b"]  # not promised, but true as long as HDF5 writes no times


def test_no_more_than_two_batches_are_alive_at_once(tmp_path, make_sequences):
    source = RandomSource(make_sequences)
    seen = []

    def batches():
        for seed in range(6):
            yield source.sample(10, 4, torch.Generator().manual_seed(seed))
            seen.append(sum(frames() is not None for frames in source.alive))

    write_batches(tmp_path / "a.h5", batches(), 60, generator="test", seed=None, progress=False)
    assert len(seen) == 6 and max(seen) <= 2


def test_progress_says_how_far_and_how_long(tmp_path, make_sequences, capsys):
    for progress in (True, False):
        write_sequences(
            tmp_path / f"{progress}.h5", RandomSource(make_sequences), 20, 4, 0, generator="test", progress=progress
        )
        shown = capsys.readouterr().err
        assert ("True.h5" in shown and "20/20" in shown and "00:00<" in shown) if progress else shown == ""


class Unwilling:
    """A source that must not be asked."""

    device = torch.device("cpu")

    def sample(self, batch, length, generator):
        raise AssertionError("asked for sequences that cannot be written")


def test_nothing_is_overwritten_unless_told_and_that_is_said_before_work_begins(tmp_path, make_sequences):
    path = tmp_path / "a.h5"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match=r"expected a path where no file is, got .*a.h5; overwrite=True"):
        write_sequences(path, Unwilling(), 3, 4, 0, generator="test")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        SequenceWriter(path, **SIZES)
    with pytest.raises(FileExistsError, match="got a folder"):
        write_sequences(tmp_path, Unwilling(), 3, 4, 0, generator="test", overwrite=True)
    assert path.read_text() == "precious" and listing(tmp_path) == ["a.h5"]
    write_sequences(path, RandomSource(make_sequences), 3, 4, 0, generator="test", overwrite=True, progress=False)
    assert len(SequenceDataset(path)) == 3 and listing(tmp_path) == ["a.h5"]


def test_a_file_that_appears_while_writing_is_not_overwritten_either(tmp_path, make_sequences):
    path = tmp_path / "a.h5"
    with pytest.raises(FileExistsError, match="overwrite=True"), SequenceWriter(path, **SIZES) as writer:
        writer.append(make_sequences(2))
        path.write_text("precious")
    assert path.read_text() == "precious" and listing(tmp_path) == ["a.h5"]


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
@pytest.mark.parametrize("before", [True, False])
def test_a_failing_source_leaves_what_was_there(tmp_path, make_sequences, error, before):
    path = tmp_path / "a.h5"
    if before:
        path.write_text("precious")

    def batches():
        yield make_sequences(5)
        raise error

    with pytest.raises(type(error)):
        write_batches(path, batches(), 9, generator="test", seed=None, overwrite=True, progress=False)
    assert listing(tmp_path) == (["a.h5"] if before else [])
    assert not before or path.read_text() == "precious"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s._replace(frames=s.frames * 0.5), r"pixels are all k/255"),
        (
            lambda s: s._replace(frames=s.frames[:3]),
            r"expected frames of shape \[4, 2, 1, 5, 7\], got \[3, 2, 1, 5, 7\]",
        ),
        (lambda s: s._replace(frames=s.frames.movedim(2, -1)), r"expected frames of .* got \[4, 2, 5, 7, 1\]"),
        (lambda s: s._replace(count=s.count.int()), "expected count of type int64, got torch.int32"),
        (lambda s: s._replace(count=s.count + 1), "expected count to be the number of objects present, or -1"),
        (lambda s: s._replace(present=s.present.long()), "expected present of type bool, got torch.int64"),
        (lambda s: s._replace(boxes=s.boxes.double()), "expected boxes of type float32, got torch.float64"),
        (lambda s: s._replace(boxes=s.boxes[:, :1]), r"expected boxes of shape \[4, 2, 3, 4\], got \[4, 1, 3, 4\]"),
        (lambda s: s._replace(ids=s.ids[..., :2]), r"expected ids of shape \[4, 2, 3\], got \[4, 2, 2\]"),
        (lambda s: s._replace(labels=s.labels[:, :2]), r"expected labels of shape \[2, 3\], got \[2, 2\]"),
        (lambda s: s._replace(physics=None), "expected sequences with physics"),
        (
            lambda s: s._replace(physics=s.physics._replace(events=s.physics.events[..., None])),
            r"expected events of shape \[4, 2\], got \[4, 2, 1\]",
        ),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_whole(tmp_path, make_sequences, assert_same, change, message):
    good = make_sequences(2)
    path = tmp_path / "a.h5"
    with SequenceWriter(path, physics=True, **SIZES) as writer:
        writer.append(good)
        with pytest.raises(ValueError, match=message):
            writer.append(change(good))
        writer.append(good)
    dataset = SequenceDataset(path)
    assert len(dataset) == 4
    for half in (slice(0, 2), slice(2, 4)):
        assert_same(dataset.read(half), good)


def test_count_may_be_unknown(tmp_path, make_sequences):
    batch = make_sequences(2)
    with SequenceWriter(tmp_path / "a.h5", **SIZES) as writer:
        writer.append(batch._replace(count=torch.full_like(batch.count, -1)))
    assert bool((SequenceDataset(tmp_path / "a.h5").read().count == -1).all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_frames": 0}, "of at least 1, got 0, .5, 7., 1 and 3"),
        ({"image_size": (5, 0)}, "of at least 1, got 4, .5, 0., 1 and 3"),
        ({"channels": 0}, "of at least 1, got 4, .5, 7., 0 and 3"),
        ({"max_objects": 0}, "of at least 1, got 4, .5, 7., 1 and 0"),
        ({"parameters": {"a": object()}}, "expected parameters to be JSON-able, got"),
        ({"parameters": {"a": float("nan")}}, "expected parameters to be JSON-able, got"),
        ({"seed": 2**63}, "expected a seed that fits in 64 bits with its sign, got 9223372036854775808"),
    ],
)
def test_impossible_files_are_refused_before_they_are_made(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        SequenceWriter(tmp_path / "a.h5", **SIZES | change)
    assert listing(tmp_path) == []


def test_a_file_without_sequences_is_not_made(tmp_path):
    with pytest.raises(ValueError, match="expected at least one sequence for .*a.h5, got none"):
        with SequenceWriter(tmp_path / "a.h5", **SIZES):
            pass
    with pytest.raises(ValueError, match="expected at least one sequence for .*a.h5, got none"):
        write_batches(tmp_path / "a.h5", [], 0, generator="test", seed=None)
    assert listing(tmp_path) == []


def test_appending_outside_the_block_is_refused(tmp_path, make_sequences):
    writer = SequenceWriter(tmp_path / "a.h5", **SIZES)
    with pytest.raises(RuntimeError, match="inside the block"):
        writer.append(make_sequences(1))
    with writer:
        writer.append(make_sequences(1))
    with pytest.raises(RuntimeError, match="inside the block"):
        writer.append(make_sequences(1))


@pytest.mark.parametrize(("n", "length"), [(0, 3), (3, 0)])
def test_write_sequences_refuses_an_empty_set(tmp_path, make_sequences, n, length):
    with pytest.raises(ValueError, match=f"expected n and length of at least 1, got {n} and {length}"):
        write_sequences(tmp_path / "a.h5", RandomSource(make_sequences), n, length, 0, generator="test")
    assert listing(tmp_path) == []
