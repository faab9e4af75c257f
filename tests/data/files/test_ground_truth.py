# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Wrong ground truth is refused when it is written and when a file is opened; the message names its place."""

import h5py
import pytest
import torch

from pyro_sqair.data import SequenceDataset, SequenceWriter, open_sequences

# Of 130 sequences, 64 are checked at opening: 0, 2, 4, ... and the last.
N, NAMED = 130, 6
NAN = float("nan")


@pytest.fixture
def valid(make_sequences):
    """Three slots, of which the first two have objects, with ids 5 and 2; boxes of size 0 and negative corners."""
    sequences = make_sequences(N)
    present = torch.tensor([True, True, False]).expand_as(sequences.present)
    boxes = torch.tensor([[-3.0, 2.0, 4.0, 0.0], [0.0, 0.0, 1.0, 2.0], [0.0] * 4]).expand_as(sequences.boxes)
    ids, labels = torch.tensor([5, 2, -1]).expand_as(present), torch.tensor([0, -1, 7]).expand(N, -1)
    count = torch.where(torch.arange(N) % 2 == 0, 2, -1).expand_as(sequences.count)
    fields = {"count": count, "present": present, "boxes": boxes, "ids": ids, "labels": labels}
    return sequences._replace(**{name: field.clone() for name, field in fields.items()})


PLACE = r"in sequence 6, frame 2"
WRONG = pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [
        ("count", (), 1, rf"count to be .* or -1 .*, got count 1 with present \[True, True, False\] {PLACE} "),
        ("present", (2,), True, rf"count to be .*, got count 2 with present \[True, True, True\] {PLACE} "),
        ("boxes", (0, 0), NAN, rf"finite boxes .*, got boxes \[nan, 2.0, .* with present True {PLACE}, object 0 "),
        ("boxes", (1, 3), float("inf"), rf"finite boxes .*, got boxes .* {PLACE}, object 1 "),
        (
            "boxes",
            (1, 2),
            -0.5,
            rf"finite boxes with sizes of at least 0 .*, got boxes \[0.0, 0.0, -0.5, .* {PLACE}, object 1 ",
        ),
        (
            "boxes",
            (2, 1),
            3.0,
            rf"finite boxes .* zeros where absent .*, got boxes .* with present False {PLACE}, object 2 ",
        ),
        ("ids", (0,), -1, rf"ids of at least 0 .*, got ids -1 with present True {PLACE}, object 0 "),
        ("ids", (2,), 9, rf"ids of .* -1 where absent .*, got ids 9 with present False {PLACE}, object 2 "),
        ("ids", (1,), 5, rf"different ids .*, got ids \[5, 5, -1\] with present \[True, True, False\] {PLACE} "),
        ("labels", (1,), -2, "labels of at least -1 .*, got labels -2 in sequence 6, object 1 "),
    ],
)


@WRONG
def test_wrong_ground_truth_is_refused_by_the_writer_and_at_opening(
    tmp_path, valid, write, name, place, value, message
):
    sequences = valid._replace(**{name: getattr(valid, name).clone()})
    where = (NAMED, *place) if name == "labels" else (2, NAMED, *place)
    getattr(sequences, name)[where] = value
    with SequenceWriter(tmp_path / "new.h5") as writer:
        writer.append(valid.slice(slice(4)))
        with pytest.raises(ValueError, match=rf"expected {message}.*from 0") as refusal:
            writer.append(sequences.slice(slice(4, None)))
        assert "new.h5" in str(refusal.value) and len(writer) == 4
    path = write(tmp_path / "a.h5", valid)
    with h5py.File(path, "r+") as file:
        where = (NAMED, *place) if name == "labels" else (NAMED, 2, *place)
        file[name][where] = value
    for in_memory in (False, True):
        with pytest.raises(ValueError, match=rf"expected {message}.*from 0") as refusal:
            open_sequences(path, in_memory=in_memory)
        assert str(path) in str(refusal.value)


def test_a_sample_is_checked_at_opening_and_everything_in_memory(tmp_path, valid, write, assert_same):
    path = write(tmp_path / "a.h5", valid)
    assert_same(SequenceDataset(path, in_memory=True).read(), valid)
    for number, refused in ((0, True), (1, False), (2, True), (127, False), (129, True)):
        with h5py.File(path, "r+") as file:
            before, file["boxes"][number, 0, 0, 2] = file["boxes"][number, 0, 0, 2], NAN
        for in_memory in (False, True):
            if refused or in_memory:
                with pytest.raises(ValueError, match=f"finite boxes .* in sequence {number}, frame 0, object 0"):
                    SequenceDataset(path, in_memory)
            else:
                SequenceDataset(path)
        with h5py.File(path, "r+") as file:
            file["boxes"][number, 0, 0, 2] = before


@pytest.mark.parametrize("count", [4, -2])
def test_every_count_is_checked_at_opening(tmp_path, valid, write, monkeypatch, count):
    monkeypatch.setattr("pyro_sqair.data.files.dataset._PIECE", 4 * 7)  # 7 sequences at a time
    path = write(tmp_path / "a.h5", valid)
    assert SequenceDataset(path).most_objects == 2
    with h5py.File(path, "r+") as file:
        file["count"][127, 3] = count  # not among the sequences of which all is checked
    with pytest.raises(ValueError, match="expected count from -1 to 3, the objects in .*a.h5, got "):
        SequenceDataset(path)


def test_files_without_slots_for_objects_can_be_read(tmp_path, valid, write):
    path = write(tmp_path / "a.h5", valid)
    with h5py.File(path, "r+") as file:
        for name in ("present", "boxes", "ids", "labels"):
            values = file.pop(name)[...]
            file[name] = values[:, :0] if name == "labels" else values[:, :, :0]
        file["count"][...] = -1
    assert SequenceDataset(path).most_objects is None
    assert SequenceDataset(path, in_memory=True).read().boxes.shape == (4, N, 0, 4)
