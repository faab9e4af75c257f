# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""What every test starts from: a seed, an empty parameter store, validation; where data and device are."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pyro
import pytest
import torch

os.environ.setdefault("MPLBACKEND", "Agg")  # figures are drawn into files, with or without a display

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def clean_slate() -> Iterator[None]:
    """Same seed, empty parameter store, validation on and float32, whatever the test before has done."""
    dtype = torch.get_default_dtype()
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    with pyro.validation_enabled(True):
        yield
    torch.set_default_dtype(dtype)


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where the tests run in the background, which a shell lets ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The device under test: `PYRO_SQAIR_TEST_DEVICE`, by default the CPU."""
    return torch.device(os.environ.get("PYRO_SQAIR_TEST_DEVICE", "cpu"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; it is never committed, and tests skip without it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    return folder


@pytest.fixture(scope="session")
def mnist_dir(shared_data: Path) -> Path:
    """The folder with the four official MNIST files, named `train-images-idx3-ubyte.gz` and so on."""
    folder = shared_data / "mnist"
    if not folder.is_dir():
        pytest.skip("no mnist/ in ../shared/data")
    return folder
