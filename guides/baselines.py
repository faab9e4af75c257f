# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Attaches a baseline to a discrete draw, for estimators that use one (Mnih & Gregor 2014)."""

from __future__ import annotations

from typing import Any

from pyro.poutine.runtime import InferDict
from torch import Tensor, nn


def baseline_options(network: nn.Module | None, known: Tensor) -> InferDict | None:
    """The argument ``infer`` of ``pyro.sample``.

    Args:
        network: predicts the cost downstream of the draw, ``[*, F]`` to ``[*]``; None for no baseline.
        known: features known before the draw, shape ``[*, F]``. Pyro detaches them, so the guide is not trained by
            the baseline's error.
    """
    if network is None:
        return None
    options: Any = {"baseline": {"nn_baseline": network, "nn_baseline_input": known}}  # Pyro's type lacks this key
    return options
