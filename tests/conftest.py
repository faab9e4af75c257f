# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Fixtures for all tests: seed, parameter store, validation, device, and folders of data."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pyro
import pytest
import torch

os.environ.setdefault("MPLBACKEND", "Agg")  # draw figures without a display

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def clean_slate() -> Iterator[None]:
    """Starts every test with the same seed, an empty parameter store, validation, and the default dtype."""
    dtype = torch.get_default_dtype()
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    with pyro.validation_enabled(True):
        yield
    torch.set_default_dtype(dtype)


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> Iterator[None]:
    """Makes SIGINT raise KeyboardInterrupt; shells let background processes ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The device under test: `PYRO_SQAIR_TEST_DEVICE`, by default the CPU."""
    return torch.device(os.environ.get("PYRO_SQAIR_TEST_DEVICE", "cpu"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data next to the checkout. It is not in the repository; without it tests are skipped."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data next to the checkout")
    return folder


@pytest.fixture(scope="session")
def mnist_dir(shared_data: Path) -> Path:
    """The folder with the four MNIST files, such as `train-images-idx3-ubyte.gz`."""
    folder = shared_data / "mnist"
    if not folder.is_dir():
        pytest.skip("no mnist/ in ../shared/data")
    return folder
