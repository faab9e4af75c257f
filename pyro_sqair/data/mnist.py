# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""The MNIST digits, read from the four official files."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import torch
from torch import Tensor

from pyro_sqair.data.digits import DigitImages, check_split, crop_digits
from pyro_sqair.data.sequences import require

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
_PREFIX = {"train": "train", "test": "t10k"}


def mnist_digits(split: str, directory: Path | str | None = None) -> DigitImages:
    """MNIST digits (LeCun & Cortes), cropped to their bounding boxes at native scale: at most 20x20 pixels.

    Args:
        split: "train" (60,000 digits) or "test" (10,000).
        directory: a folder with the official `.gz` files. If None, they are downloaded once to the cache folder of
            the operating system.

    Raises:
        ValueError: if the split is unknown, or a file is not the official one.
        FileNotFoundError: if `directory` lacks a file.
        ImportError: if a download is needed and pooch is not installed.
        ConnectionError: if no mirror provided the file.
    """
    check_split(split)
    names = [f"{_PREFIX[split]}-images-idx3-ubyte.gz", f"{_PREFIX[split]}-labels-idx1-ubyte.gz"]
    paths = [_download(name) if directory is None else _find(Path(directory), name) for name in names]
    images, labels = map(_read, paths)
    return crop_digits(images, labels)


def _read(path: Path) -> Tensor:
    """Reads a file after a comparison of its md5 with that of the official one."""
    data = path.read_bytes()
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    advice = "the file is damaged or not the official one; delete it and download it again"
    require(found == MD5[path.name], f"{path} to have md5 {MD5[path.name]}", f"{found}: {advice}")
    # The idx format: two zero bytes, a type code, the number of dimensions, each dimension as a big-endian 32-bit
    # integer, then the values in row-major order.
    content = bytearray(gzip.decompress(data))  # torch requires writable memory
    start = 4 + 4 * content[3]
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    return torch.frombuffer(content, dtype=torch.uint8, offset=start).reshape(shape)


def _find(directory: Path, name: str) -> Path:
    path = directory / name
    if not path.is_file():
        raise FileNotFoundError(
            f"expected the MNIST file {name} in {directory.absolute()}, found none; download it from "
            f"{' or '.join(mirror + name for mirror in MIRRORS)}, or omit the directory to download it"
        )
    return path


def _download(name: str) -> Path:
    try:
        import pooch
    except ImportError as error:
        advice = "pip install 'pyro_sqair[mnist]', or pass the directory with the official .gz files"
        raise ImportError(f"downloading MNIST needs pooch, which is not installed: {advice}") from error
    failures, cache = [], pooch.os_cache("pyro_sqair") / "mnist"
    for mirror in MIRRORS:
        try:
            return Path(pooch.retrieve(mirror + name, f"md5:{MD5[name]}", fname=name, path=cache))
        except (OSError, ValueError) as error:  # no network, no such file, or another md5
            failures.append(f"{mirror + name}: {error}")
    tried = "\n  ".join(["Tried:", *failures])
    raise ConnectionError(f"could not download {name}; pass the directory with the official .gz files. {tried}")
