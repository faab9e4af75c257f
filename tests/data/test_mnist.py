# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Reading the official MNIST files, and errors if they are missing or damaged."""

import gzip
import hashlib
import struct
import sys
from pathlib import Path

import pytest
import torch

from pyro_sqair.data import mnist, mnist_digits

IMAGES, LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"


def idx(shape, values):
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + bytes(values)


@pytest.fixture
def tiny_mnist(tmp_path, monkeypatch) -> Path:
    """A folder with a test split of two 3x3 digits, with its md5 registered as the official one."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    contents = {
        IMAGES: idx((2, 3, 3), [0, 0, 0, 0, 255, 0, 0, 51, 0] + [9] * 9),
        LABELS: idx((2,), [4, 7]),
    }
    for name, content in contents.items():
        data = gzip.compress(content)
        (folder / name).write_bytes(data)
        monkeypatch.setitem(mnist.MD5, name, hashlib.md5(data).hexdigest())
    return folder


def test_tiny_files_are_read_exactly(tiny_mnist):
    digits = mnist_digits("test", tiny_mnist)
    assert digits.labels.tolist() == [4, 7]
    assert digits.heights.tolist() == [2, 3] and digits.widths.tolist() == [1, 3]
    assert digits.images[0].tolist() == [[255, 0, 0], [51, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("split", "size", "first", "ink"),
    [("train", 60_000, "50419", 1_567_298_545), ("test", 10_000, "72104", 264_923_200)],
)
def test_official_files(mnist_dir, split, size, first, ink):
    digits = mnist_digits(split, mnist_dir)
    assert digits.images.shape == (size, 20, 20) and digits.images.dtype == torch.uint8
    assert "".join(map(str, digits.labels[:5].tolist())) == first
    assert digits.images.sum() == ink  # cropping keeps all non-zero pixels, and every box is tight
    image, rows = digits.images, torch.arange(size)
    for edge in (image[:, 0], image[rows, digits.heights - 1]):
        assert bool(edge.any(1).all())
    for edge in (image[:, :, 0], image[rows, :, digits.widths - 1]):
        assert bool(edge.any(1).all())


def test_a_damaged_file_is_an_error_with_both_md5_and_is_not_changed(tiny_mnist):
    good = (tiny_mnist / LABELS).read_bytes()
    bad = good[:-1] + bytes([good[-1] ^ 1])
    (tiny_mnist / LABELS).write_bytes(bad)
    expected, found = (hashlib.md5(data).hexdigest() for data in (good, bad))
    with pytest.raises(ValueError, match=f"expected .*{LABELS} to have md5 {expected}, got {found}"):
        mnist_digits("test", tiny_mnist)
    assert (tiny_mnist / LABELS).read_bytes() == bad
    assert sorted(path.name for path in tiny_mnist.iterdir()) == [IMAGES, LABELS]


def test_the_error_for_a_missing_file_has_its_folder_and_addresses(tiny_mnist):
    (tiny_mnist / LABELS).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        mnist_digits("test", tiny_mnist)
    for part in (LABELS, str(tiny_mnist), *mnist.MIRRORS):
        assert part in str(caught.value)


def test_the_second_mirror_is_tried(tiny_mnist, monkeypatch):
    pooch = pytest.importorskip("pooch")
    asked = []

    def retrieve(url, known_hash, fname, path):
        asked.append(url)
        assert known_hash == f"md5:{mnist.MD5[fname]}"
        if url.startswith(mnist.MIRRORS[0]):
            raise OSError("no route")
        return str(tiny_mnist / fname)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert mnist_digits("test").labels.tolist() == [4, 7]
    assert asked == [mirror + name for name in (IMAGES, LABELS) for mirror in mnist.MIRRORS]


def test_without_network_the_error_names_all_addresses(monkeypatch):
    pooch = pytest.importorskip("pooch")

    def retrieve(url, *_, **__):
        raise OSError(f"no route to {url[:12]}")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(ConnectionError, match="pass the directory with the official") as caught:
        mnist_digits("train")
    for mirror in mnist.MIRRORS:
        assert f"{mirror}train-images-idx3-ubyte.gz: no route" in str(caught.value)


def test_an_unknown_split_and_missing_pooch_are_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="expected split to be one of 'train', 'test', got 'valid'"):
        mnist_digits("valid", tmp_path)
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match=r"pip install 'pyro_sqair\[mnist\]'"):
        mnist_digits("train")
