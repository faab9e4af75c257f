# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Generative programs: what there is to see, and how it moves."""

from pyro_sqair.models.discovery import (
    AutoregressiveWhere,
    CategoricalCount,
    DiscoveryPrior,
    FixedCount,
    presence_logits,
)
from pyro_sqair.models.propagation import GRUPropagationPrior
from pyro_sqair.models.renderer import Renderer, mlp_renderer
from pyro_sqair.models.sqair import SQAIR

__all__ = [
    "SQAIR",
    "AutoregressiveWhere",
    "CategoricalCount",
    "DiscoveryPrior",
    "FixedCount",
    "GRUPropagationPrior",
    "Renderer",
    "mlp_renderer",
    "presence_logits",
]
