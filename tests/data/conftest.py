# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Random sequences, files of them, and exact comparison of batches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pyro_sqair.data import Sequences, SequenceWriter


@pytest.fixture
def assert_same() -> Callable[[Sequences, Sequences], None]:
    """A function that requires equal values and types in all fields."""

    def check(ours: Sequences, theirs: Sequences) -> None:
        for name, a, b in zip(Sequences._fields, ours, theirs, strict=True):
            assert (a is None) == (b is None), name
            assert a is None or (a.dtype == b.dtype and torch.equal(a, b)), name

    return check


@pytest.fixture
def make_sequences() -> Callable[..., Sequences]:
    """A function that draws sequences of valid form and random content, different in every field."""

    def make(
        batch: int,
        length: int = 4,
        size: tuple[int, int] = (5, 7),
        channels: int = 1,
        objects: int = 3,
        seed: int = 0,
        collisions: bool = True,
    ) -> Sequences:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(length, batch, *shape, generator=generator) * 10

        present = normal(objects) > 0
        pixels = torch.randint(256, (length, batch, channels, *size), generator=generator)
        return Sequences(
            frames=pixels.float() * (1 / 255),
            count=present.sum(-1),
            present=present,
            boxes=torch.where(present[..., None], torch.cat([normal(objects, 2), normal(objects, 2).abs()], -1), 0.0),
            ids=torch.where(present, normal(objects).argsort(-1) * 7, -1),
            labels=torch.randint(-1, 10, (batch, objects), generator=generator),
            collisions=normal(*size) > 3 if collisions else None,
        )

    return make


@pytest.fixture
def write() -> Callable[..., Path]:
    """A function that writes batches to a file, and returns its path."""

    def write(path: Path, *batches: Sequences, **options: Any) -> Path:
        with SequenceWriter(path, **options) as writer:
            for batch in batches:
                writer.append(batch)
        return path

    return write
