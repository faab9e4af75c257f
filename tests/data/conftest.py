# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Sequences of random content to write and read, and what it means for two batches to be the same."""

from collections.abc import Callable

import pytest
import torch

from pyro_sqair.data import Physics, Sequences


def flatten(sequences: Sequences) -> dict[str, torch.Tensor]:
    """Every tensor of a batch by its name."""
    fields = sequences._asdict()
    physics = fields.pop("physics")
    return fields | ({} if physics is None else physics._asdict())


@pytest.fixture
def assert_same() -> Callable[[Sequences, Sequences], None]:
    """A function that demands every bit of every field to be equal, and the types too."""

    def check(ours: Sequences, theirs: Sequences) -> None:
        a, b = flatten(ours), flatten(theirs)
        assert a.keys() == b.keys()
        for name, values in a.items():
            assert values.dtype == b[name].dtype and values.shape == b[name].shape, name
            assert torch.equal(values, b[name]), name

    return check


@pytest.fixture
def make_sequences() -> Callable[..., Sequences]:
    """A function that draws sequences of no meaning but right form: every field full of its own random values."""

    def make(
        batch: int,
        length: int = 4,
        size: tuple[int, int] = (5, 7),
        channels: int = 1,
        objects: int = 3,
        seed: int = 0,
        physics: bool = True,
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
            boxes=normal(objects, 4),
            ids=torch.where(present, normal(objects).long(), -1),
            labels=torch.randint(-1, 10, (batch, objects), generator=generator),
            physics=Physics(normal(objects, 2), normal(objects, 2), normal(*size) > 3, normal() > 0)
            if physics
            else None,
        )

    return make
