# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Writing files of sequences: exact content, what is refused, and what is overwritten."""

import json
import weakref

import h5py
import numpy as np
import pytest
import torch

from pyro_sqair.data import BouncingBalls, SequenceDataset, SequenceWriter, coloured_balls, held_out, write_sequences
from pyro_sqair.data.files.format import FIELDS


class RandomSource:
    """Draws frames from the generator, and counts how many of its batches are alive."""

    device = torch.device("cpu")

    def __init__(self, make):
        self.make, self.alive, self.most_alive = make, [], 0

    def sample(self, batch, length, generator):
        self.most_alive = max(self.most_alive, sum(frames() is not None for frames in self.alive))
        made = self.make(batch, length, seed=int(torch.randint(1 << 30, (), generator=generator)))
        self.alive.append(weakref.ref(made.frames))
        return made


class Failing(RandomSource):
    """Raises an error at its second batch, or at the first one without `make`."""

    def __init__(self, error, make=None):
        super().__init__(make)
        self.error = error

    def sample(self, batch, length, generator):
        if self.make is None or self.alive:
            raise self.error
        return super().sample(batch, length, generator)


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("collisions", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_file_holds_what_was_appended_sequence_first(tmp_path, make_sequences, collisions, channels):
    path = tmp_path / "new" / "a.h5"
    batches = [make_sequences(size, channels=channels, seed=size, collisions=collisions) for size in (3, 1, 70)]
    with SequenceWriter(path) as writer:
        for batch, total in zip(batches, (3, 4, 74), strict=True):
            writer.append(batch)
            assert len(writer) == total
    with h5py.File(path) as file:
        assert set(file) == {name for name in FIELDS if collisions or name != "collisions"}
        for name, dataset in file.items():
            assert dataset.dtype.name == FIELDS[name].dtype and len(dataset) == 74
            values = [getattr(batch, name).numpy() for batch in batches]
            rows = [v[s] if name == "labels" else v[:, s] for v in values for s in range(v.shape[name != "labels"])]
            if name == "frames":
                rows = [np.rint(v.astype(float) * 255).astype(np.uint8).transpose(0, 2, 3, 1) for v in rows]
            assert np.array_equal(dataset[...], np.stack(rows)), name
        assert file["frames"].chunks == (1, 4, 5, 7, channels) and file["frames"].compression == "gzip"


@pytest.mark.parametrize("seed", [None, -7])
def test_attributes(tmp_path, make_sequences, write, seed):
    parameters = {"speed": 2.5, "name": "ü", "nested": {"b": [1, 2], "a": None}}
    path = write(tmp_path / "a.h5", make_sequences(1), generator="test", seed=seed, parameters=parameters)
    with h5py.File(path) as file:
        attributes = dict(file.attrs)
    assert json.loads(attributes.pop("parameters")) == parameters
    expected = {"format": b"pyro_sqair.sequences", "version": 1, "generator": b"test", "complete": True}
    assert attributes == expected | ({} if seed is None else {"seed": seed})


def test_a_file_has_the_same_tensors_as_its_source(tmp_path, assert_same):
    source, path = BouncingBalls(coloured_balls()), tmp_path / "balls.h5"  # test_docs.py does the same with digits
    write_sequences(path, source, 12, 5, 3, generator="bouncing-balls", progress=False)
    assert_same(SequenceDataset(path).read(), held_out(source, 12, 5, 3))


def test_the_seed_determines_the_content(tmp_path, make_sequences):
    files = {}
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        path = tmp_path / f"{name}.h5"
        write_sequences(path, RandomSource(make_sequences), 300, 4, seed, generator="test", progress=False)
        files[name] = path.read_bytes()
    assert files["a"] == files["b"] != files["c"]


def test_one_batch_at_a_time_is_in_memory_and_progress_is_shown(tmp_path, make_sequences, capsys):
    for progress in (True, False):
        source = RandomSource(make_sequences)
        write_sequences(tmp_path / f"{progress}.h5", source, 1000, 4, 0, generator="test", progress=progress)
        assert len(source.alive) == 4 and source.most_alive == 0
        shown = capsys.readouterr().err
        assert ("True.h5" in shown and "1000/1000" in shown and "00:00<" in shown) if progress else shown == ""


def test_nothing_is_overwritten_without_permission_and_no_work_is_done_then(tmp_path, make_sequences):
    path, unused = tmp_path / "a.h5", Failing(AssertionError("drew sequences that cannot be written"))
    path.write_text("precious")
    with pytest.raises(FileExistsError, match=r"expected an unused path, got the file .*a.h5; overwrite=True"):
        write_sequences(path, unused, 3, 4, 0, generator="test")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        SequenceWriter(path)
    with pytest.raises(FileExistsError, match="got a folder"):
        write_sequences(tmp_path, unused, 3, 4, 0, generator="test", overwrite=True)
    assert path.read_text() == "precious" and listing(tmp_path) == ["a.h5"]
    write_sequences(path, RandomSource(make_sequences), 3, 4, 0, generator="test", overwrite=True, progress=False)
    assert len(SequenceDataset(path)) == 3 and listing(tmp_path) == ["a.h5"]


def test_a_file_that_appears_while_writing_is_not_overwritten(tmp_path, make_sequences):
    path = tmp_path / "a.h5"
    with pytest.raises(FileExistsError, match="overwrite=True"), SequenceWriter(path) as writer:
        writer.append(make_sequences(2))
        path.write_text("precious")
    assert path.read_text() == "precious" and listing(tmp_path) == ["a.h5"]


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
@pytest.mark.parametrize("before", [True, False])
def test_a_failing_source_leaves_the_previous_state(tmp_path, make_sequences, error, before):
    path, source = tmp_path / "a.h5", Failing(error, make_sequences)
    if before:
        path.write_text("precious")
    with pytest.raises(type(error)):
        write_sequences(path, source, 300, 4, 0, generator="test", overwrite=True, progress=False)
    assert len(source.alive) == 1 and listing(tmp_path) == (["a.h5"] if before else [])
    assert not before or path.read_text() == "precious"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {"frames": s.frames * 0.5}, "pixels are all k/255"),
        (lambda s: {"frames": s.frames[:3]}, r"frames of shape \[4, 2, 1, 5, 7\], got \[3, 2, 1, 5, 7\]"),
        (lambda s: {"frames": s.frames.movedim(2, -1)}, r"frames of shape .* got \[4, 2, 5, 7, 1\]"),
        (lambda s: {"count": s.count.int()}, "count of type torch.int64, got torch.int32"),
        (lambda s: {"count": s.count + 1}, "count to be the number of objects present, or -1"),
        (lambda s: {"present": s.present.long()}, "present of type torch.bool, got torch.int64"),
        (lambda s: {"boxes": s.boxes.double()}, "boxes of type torch.float32, got torch.float64"),
        (lambda s: {"boxes": s.boxes[:, :1]}, r"boxes of shape \[4, 2, 3, 4\], got \[4, 1, 3, 4\]"),
        (lambda s: {"ids": s.ids[..., :2]}, r"ids of shape \[4, 2, 3\], got \[4, 2, 2\]"),
        (lambda s: {"labels": s.labels[:, :2]}, r"labels of shape \[2, 3\], got \[2, 2\]"),
        (lambda s: {"collisions": None}, "sequences with collisions"),
        (
            lambda s: {"collisions": s.collisions[..., None]},
            r"collisions of shape \[4, 2, 5, 7\], got \[4, 2, 5, 7, 1\]",
        ),
    ],
)
def test_nothing_of_an_invalid_batch_is_written(tmp_path, make_sequences, assert_same, change, message):
    good, path = make_sequences(2), tmp_path / "a.h5"
    with SequenceWriter(path) as writer:
        writer.append(good)
        with pytest.raises(ValueError, match=message):
            writer.append(good._replace(**change(good)))
        writer.append(good)
    dataset = SequenceDataset(path)
    assert len(dataset) == 4
    for half in (slice(0, 2), slice(2, 4)):
        assert_same(dataset.read(half), good)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameters": {"a": object()}}, "expected JSON-serialisable parameters, got"),
        ({"parameters": {"a": float("nan")}}, "expected JSON-serialisable parameters, got"),
        ({"seed": 2**63}, "expected a seed that fits in a signed 64-bit integer, got 9223372036854775808"),
    ],
)
def test_impossible_files_are_refused_before_they_are_created(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        SequenceWriter(tmp_path / "a.h5", **change)
    assert listing(tmp_path) == []


def test_empty_files_are_not_created(tmp_path, make_sequences):
    path, batch = tmp_path / "a.h5", make_sequences(2)
    for empty in (
        batch.slice(slice(0)),
        batch._replace(labels=batch.labels[:, :0]),
        batch._replace(frames=batch.labels),
    ):
        with pytest.raises(ValueError, match=r"expected frames \[T, B, C, H, W\] and labels \[B, M\], none empty, got"):
            with SequenceWriter(path) as writer:
                writer.append(empty)
    with pytest.raises(ValueError, match="expected at least one sequence for .*a.h5, got none"):
        with SequenceWriter(path):
            pass
    for n, length in ((0, 3), (3, 0)):
        with pytest.raises(ValueError, match=f"expected n and length of at least 1, got {n} and {length}"):
            write_sequences(path, RandomSource(make_sequences), n, length, 0, generator="test")
    assert listing(tmp_path) == []


def test_appending_outside_the_block_is_refused(tmp_path, make_sequences):
    writer = SequenceWriter(tmp_path / "a.h5")
    with pytest.raises(RuntimeError, match="inside the block"):
        writer.append(make_sequences(1))
    with writer:
        writer.append(make_sequences(1))
    with pytest.raises(RuntimeError, match="inside the block"):
        writer.append(make_sequences(1))
