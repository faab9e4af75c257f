# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Invalid files are refused with a clear error; extra content and other encodings are accepted."""

import os
import random

import h5py
import numpy as np
import pytest

from pyro_sqair.data import SequenceDataset, open_sequences


@pytest.fixture
def path(tmp_path, make_sequences, write):
    return write(tmp_path / "a.h5", make_sequences(70, length=6), generator="test", seed=9, parameters={"a": 1})


def without(name):
    return lambda file: file.pop(name)


def without_attribute(name):
    return lambda file: file.attrs.pop(name)


def attribute(name, value):
    return lambda file: file.attrs.update({name: value})


def replaced(name, function):
    def change(file):
        values = file.pop(name)[...]
        file[name] = function(values)

    return change


def linked(name, link):
    return lambda file: (file.pop(name), file.__setitem__(name, link))


def virtual(name):
    def change(file):
        old = file.pop(name)
        layout = h5py.VirtualLayout(old.shape, old.dtype)
        layout[...] = h5py.VirtualSource("none.h5", "pixels", old.shape)
        file.create_virtual_dataset(name, layout)

    return change


def recreated(name, **options):
    """The dataset with its values lost."""

    def change(file):
        old = file.pop(name)
        file.create_dataset(name, old.shape, old.dtype, **options)

    return change


REQUIRED = ["frames", "count", "present", "boxes", "ids", "labels"]
FIELDS = [*REQUIRED, "collisions"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_attribute("format"), "a file of sequences, with the attribute 'format', in .*a.h5, got .*'boxes'"),
        (attribute("format", "other"), "the attribute format='pyro_sqair.sequences' in .*a.h5, got 'other'"),
        (without_attribute("version"), r"a version in \[1\] in .*a.h5, got None"),
        *((attribute("version", v), rf"a version in \[1\] in .*a.h5, got .*{v}") for v in (0, "1", 2)),
        (without_attribute("complete"), "a complete file in .*a.h5, got one whose writing was .*: delete it"),
        (attribute("complete", False), "a complete file in .*a.h5, got one whose writing was interrupted"),
        *(
            (without_attribute(n), f"the attribute '{n}' in .*a.h5, got .*'format'")
            for n in ("generator", "parameters")
        ),
        *(
            (attribute("parameters", v), f"the attribute 'parameters' to be a JSON object in .*a.h5, got '{v}'")
            for v in ("{", "3")
        ),
        (attribute("seed", "x"), "the attribute 'seed' to be an integer in .*a.h5, got 'x'"),
        *((without(name), f"the dataset '{name}' in .*a.h5, got only ") for name in REQUIRED),
        (lambda f: (f.pop("boxes"), f.create_group("boxes")), "the dataset 'boxes' in"),
        (lambda f: (f.pop("collisions"), f.create_group("collisions")), "the dataset 'collisions' in"),
        *(
            (replaced(name, lambda v: v.astype(np.float64)), f"{name} of type .* in .*a.h5, got float64")
            for name in FIELDS
        ),
        *((replaced(name, lambda v: v[:-1]), rf"{name} of shape \[n, .* in .*a.h5, got \[69") for name in FIELDS[1:]),
        (replaced("frames", lambda v: v[..., 0]), r"frames of shape \[n, T, H, W, C\] in .*, got \[70, 6, 5, 7\]"),
        (replaced("frames", lambda v: v[:0]), r"at least one sequence, frame and pixel .* got \[0, 6, 5, 7, 1\]"),
        (replaced("labels", lambda v: v[:, 0]), r"labels of shape \[n, M\] in .*, got \[70\]"),
        (
            replaced("boxes", lambda v: v[..., :3]),
            r"boxes of shape \[n, T, M, 4\] = \[70, 6, 3, 4\] in .*, got \[70, 6, 3, 3\]",
        ),
        *(
            (linked(name, link), f"the dataset '{name}' itself in .*a.h5, got a link: {type(link).__name__}")
            for name in ("frames", "labels")
            for link in (h5py.SoftLink(f"/{name}"), h5py.SoftLink("/ids"), h5py.ExternalLink("none.h5", "/frames"))
        ),
        (linked("collisions", h5py.SoftLink("/collisions")), "the dataset 'collisions' itself in .*a.h5, got a link"),
        *((virtual(name), f"the values of '{name}' in .*a.h5 itself, got a virtual dataset") for name in FIELDS),
        (recreated("frames", external=[("none.bin", 0, 70 * 6 * 35)]), "the values of 'frames' in .*, or values in an"),
        (recreated("frames"), "14700 written bytes of 'frames' in .*a.h5, got 0"),
        (recreated("frames", chunks=(8, 6, 5, 7, 1)), "9 written chunks of 'frames' in .*a.h5, got 0"),
        (lambda f: [f[name].resize(71, 0) for name in FIELDS], "71 written chunks of 'frames' in .*a.h5, got 70"),
        (lambda f: (f.pop("ids"), f.create_dataset("ids", (70, 6, 3), "S3")), r"ids of a numeric type in .*, got \|S3"),
        (replaced("count", lambda v: v[:, :5]), r"count of shape \[n, T\] = \[70, 6\] in .*, got \[70, 5\]"),
    ],
)
def test_invalid_content_is_refused(path, change, message):
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(ValueError, match="expected " + message):
        SequenceDataset(path)


@pytest.mark.parametrize("signature", [b"TREE", b"HEAP", b"SNOD", b"GCOL"])
def test_damaged_structures_of_other_writers_are_refused(path, signature):
    other = path.with_name("other.h5")
    with h5py.File(path) as ours, h5py.File(other, "w") as file:  # without checksums, as is h5py's default
        file.attrs.update(ours.attrs)
        for name in FIELDS:
            ours.copy(name, file)
    data = other.read_bytes()
    assert signature in data
    for start in (i for i in range(len(data)) if data[i : i + 4] == signature):
        other.write_bytes(data[:start] + b"xxxx" + data[start + 4 :])
        with pytest.raises(ValueError, match="expected .*other.h5"):
            open_sequences(other).read()


def test_damage_to_a_byte_is_refused_or_changes_nothing(path, assert_same):
    data, before = path.read_bytes(), open_sequences(path).read()
    draw, refused = random.Random(0), 0
    for _ in range(200):
        place = draw.randrange(len(data))
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :])
        try:
            after = open_sequences(path).read()
        except ValueError as error:
            refused += 1
            assert "a.h5" in str(error)
        else:
            assert_same(after, before)
    assert refused > 50


def test_an_empty_file_that_claims_a_trillion_sequences_is_refused(path):
    with h5py.File(path, "r+") as file:
        for name in FIELDS:
            old = file.pop(name)
            file.create_dataset(name, (10**12, *old.shape[1:]), old.dtype, chunks=old.chunks)
    with pytest.raises(ValueError, match="expected 1000000000000 written chunks of 'frames' in .*a.h5, got 0"):
        open_sequences(path)


def test_more_than_the_memory_is_refused_in_memory_only(path, monkeypatch):
    needed = 70 * (6 * (35 + 35 + 8 + 3 * (1 + 16 + 8)) + 3 * 8)  # bytes of pixels, masks, counts, objects; and labels
    sizes = {"SC_PHYS_PAGES": round(needed / 0.8), "SC_PAGE_SIZE": 1}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    SequenceDataset(path, in_memory=True)
    sizes["SC_PHYS_PAGES"] -= 2
    SequenceDataset(path)
    message = "expected at most .* GB .* in memory, .* GB in .*a.h5; in_memory=False .--no-in-memory"
    with pytest.raises(ValueError, match=message):
        SequenceDataset(path, in_memory=True)


@pytest.mark.parametrize("in_memory", [False, True])
def test_other_layouts_byte_orders_and_fill_values_are_accepted(path, make_sequences, assert_same, in_memory):
    with h5py.File(path, "r+") as file:
        for name in FIELDS:  # contiguous, big-endian
            values = file.pop(name)[...]
            file[name] = values.astype(values.dtype.newbyteorder(">"))
    assert_same(SequenceDataset(path, in_memory).read(), make_sequences(70, length=6))
    assert_same(SequenceDataset(path).read([5, 2]), make_sequences(70, length=6).slice([5, 2]))
    with h5py.File(path, "r+") as file:  # nothing annotated: written by nobody
        for name in FIELDS[1:]:
            fill = -1 if name in ("count", "ids", "labels") else 0
            recreated(name, fillvalue=fill, chunks=True)(file)
    dataset = SequenceDataset(path, in_memory)
    assert dataset.most_objects is None and not dataset.read().present.any()


@pytest.mark.parametrize("part", [0.999, 0.5, 0.01])
def test_truncated_files_are_refused(path, part):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ValueError, match="expected a complete HDF5 file, got a truncated one: .*a.h5"):
        SequenceDataset(path)


@pytest.mark.parametrize("read", [SequenceDataset, open_sequences])
def test_other_paths_are_refused(tmp_path, read):
    path = tmp_path / "a.h5"
    with pytest.raises(FileNotFoundError, match="expected an HDF5 file, found nothing: /.*/a.h5"):
        read(path)
    with pytest.raises(FileNotFoundError, match="expected an HDF5 file, found a folder"):
        read(tmp_path)
    for content in (b"", b"not HDF5 at all", bytes(10_000)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="expected an HDF5 file, got another format: .*a.h5"):
            read(path)


def test_damaged_pixels_are_refused_when_they_are_read(path, make_sequences, assert_same):
    with h5py.File(path) as file:
        chunk = file["frames"].id.get_chunk_info(5)
    data = bytearray(path.read_bytes())
    for i in range(chunk.byte_offset + 20, chunk.byte_offset + 40):
        data[i] ^= 0xFF
    path.write_bytes(data)
    dataset = SequenceDataset(path)
    assert_same(dataset.read([4]), make_sequences(70, length=6).slice([4]))
    with pytest.raises(ValueError, match="expected readable frames in .*a.h5, got damaged data"):
        dataset.read([5])


def test_unknown_datasets_bytes_as_bools_and_bytes_as_text_are_accepted(path, make_sequences, assert_same):
    with h5py.File(path, "r+") as file:
        for name in ("present", "collisions"):
            replaced(name, lambda values: values.astype(np.uint8))(file)
        for name in ("format", "generator", "parameters"):
            file.attrs[name] = np.bytes_(file.attrs[name])
        file["velocities"] = np.zeros((70, 6, 3, 2))  # files written by older versions have some more
    dataset = SequenceDataset(path)
    assert_same(dataset.read(), make_sequences(70, length=6))
    assert (dataset.layout.generator, dataset.layout.parameters) == ("test", {"a": 1})
