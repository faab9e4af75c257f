# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""What is said of a file that is not one of sequences, or not a good one."""

import h5py
import numpy as np
import pytest

from pyro_sqair.data import SequenceDataset, write_batches


@pytest.fixture
def path(tmp_path, make_sequences):
    path = tmp_path / "a.h5"
    write_batches(path, [make_sequences(70, length=6)], 70, generator="test", seed=9, progress=False)
    return path


def without(name):
    def change(file):
        del file[name]

    return change


def without_attribute(name):
    def change(file):
        del file.attrs[name]

    return change


def attribute(name, value):
    def change(file):
        file.attrs[name] = value

    return change


def replaced(name, function):
    def change(file):
        values = file[name][...]
        del file[name]
        file[name] = function(values)

    return change


FIELDS = ["frames", "count", "present", "boxes", "ids", "labels"]
PHYSICS = ["positions", "velocities", "collisions", "events"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_attribute("format"), "got one without the attribute 'format': .*a.h5; it holds 'boxes', "),
        (attribute("format", "other"), "expected the attribute format='pyro_sqair.sequences' in .*a.h5, got 'other'"),
        (without_attribute("version"), "expected an attribute 'version' of at least 1 in .*a.h5, got None"),
        (attribute("version", 0), "expected an attribute 'version' of at least 1 in .*a.h5, got 0"),
        (attribute("version", "1"), "expected the attribute 'version' to be a whole number in .*a.h5, got '1'"),
        (attribute("version", 2), "expected a file of version 1 or older, got version 2: .*a.h5; a newer pyro_sqair"),
        (without_attribute("complete"), "expected a complete file, got one whose writer .*: .*a.h5; delete it"),
        (attribute("complete", False), "expected a complete file, got one whose writer"),
        (without_attribute("generator"), "expected the attribute 'generator' in .*a.h5, got .*'format'"),
        (without_attribute("parameters"), "expected the attribute 'parameters' in .*a.h5, got .*'format'"),
        (attribute("parameters", "{"), "expected the attribute 'parameters' to be a JSON object in .*a.h5, got '{'"),
        (attribute("parameters", "3"), "expected the attribute 'parameters' to be a JSON object in .*a.h5, got '3'"),
        (attribute("seed", "x"), "expected the attribute 'seed' to be a whole number in .*a.h5, got 'x'"),
        *((without(name), f"expected the dataset '{name}' in .*a.h5, got only ") for name in FIELDS + PHYSICS),
        *(
            (replaced(name, lambda v: v.astype(np.float64)), f"expected {name} of type .* in .*a.h5, got float64")
            for name in FIELDS + PHYSICS
        ),
        *(
            (replaced(name, lambda v: v[:-1]), rf"expected {name} of shape \[n, .* in .*a.h5, got \[69")
            for name in FIELDS[1:] + PHYSICS
        ),
        (
            replaced("frames", lambda v: v[..., 0]),
            r"expected frames of shape \[n, T, H, W, C\] in .*, got \[70, 6, 5, 7\]",
        ),
        (replaced("frames", lambda v: v[:0]), r"expected at least one sequence, .* got frames \[0, 6, 5, 7, 1\]"),
        (replaced("labels", lambda v: v[:, 0]), r"expected labels of shape \[n, M\] in .*, got \[70\]"),
        (
            replaced("boxes", lambda v: v[..., :3]),
            r"boxes of shape \[n, T, M, 4\] = \[70, 6, 3, 4\] .* got \[70, 6, 3, 3\]",
        ),
        (replaced("count", lambda v: v[:, :5]), r"expected count of shape \[n, T\] = \[70, 6\] in .*, got \[70, 5\]"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(path, change, message):
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(ValueError, match=message):
        SequenceDataset(path)


def test_a_group_in_place_of_a_dataset_is_said(path):
    with h5py.File(path, "r+") as file:
        del file["boxes"]
        file.create_group("boxes")
    with pytest.raises(ValueError, match="expected the dataset 'boxes' in"):
        SequenceDataset(path)


@pytest.mark.parametrize("part", [0.999, 0.5, 0.01])
def test_a_file_cut_short_is_said(path, part):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ValueError, match="expected a whole HDF5 file, got one that has been cut short: .*a.h5"):
        SequenceDataset(path)


@pytest.mark.parametrize("content", [b"", b"not HDF5 at all", bytes(10_000)])
def test_something_else_is_said(tmp_path, content):
    path = tmp_path / "a.h5"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="expected an HDF5 file, got something else: .*a.h5"):
        SequenceDataset(path)


def test_nothing_and_a_folder_are_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected an HDF5 file, found nothing: /.*/a.h5"):
        SequenceDataset(tmp_path / "a.h5")
    with pytest.raises(ValueError, match="expected an HDF5 file, got a folder"):
        SequenceDataset(tmp_path)


def test_a_file_that_goes_away_while_read_is_said(path):
    dataset = SequenceDataset(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="found nothing"):
        dataset.read([0])
