# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Trainers of the blinking pattern, in a folder of their own."""

from pathlib import Path

import pytest
import torch
from blinking import Bench


@pytest.fixture
def bench(tmp_path: Path, device: torch.device) -> Bench:
    """Makes trainers; see `Bench`."""
    return Bench(tmp_path, device)
