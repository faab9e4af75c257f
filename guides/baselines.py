# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""How a guide attaches a baseline to a discrete draw, for estimators that use one (Mnih & Gregor 2014)."""

from __future__ import annotations

from typing import Any

from pyro.poutine.runtime import InferDict
from torch import Tensor, nn


def baseline_options(network: nn.Module | None, known: Tensor) -> InferDict | None:
    """What to pass to ``pyro.sample`` as ``infer``.

    Args:
        network: maps what is known to the cost expected downstream of the draw, ``[*, F]`` to ``[*]``; None for no
            baseline.
        known: what is known before the draw, shape ``[*, F]``. Pyro detaches it: the network teaches the guide nothing.
    """
    if network is None:
        return None
    options: Any = {"baseline": {"nn_baseline": network, "nn_baseline_input": known}}  # a key that Pyro's type lacks
    return options
