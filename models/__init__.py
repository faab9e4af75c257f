# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Generative programs: priors, renderers and complete models."""

from pyro_sqair.models.discovery import (
    AutoregressiveWhere,
    CategoricalCount,
    DiscoveryPrior,
    FixedCount,
    GeometricCount,
    SizedWhere,
)
from pyro_sqair.models.given import given_discovery, given_propagation
from pyro_sqair.models.propagation import (
    GRUPriorConfig,
    GRUPropagationPrior,
    GuidedWalkConfig,
    GuidedWalkPrior,
    RandomWalkConfig,
    RandomWalkPrior,
)
from pyro_sqair.models.renderer import Renderer, conv_renderer, mlp_renderer
from pyro_sqair.models.sqair import SQAIR, ScenePrior
from pyro_sqair.models.vrnn import VRNN

__all__ = [
    "SQAIR",
    "VRNN",
    "AutoregressiveWhere",
    "CategoricalCount",
    "DiscoveryPrior",
    "FixedCount",
    "GRUPriorConfig",
    "GRUPropagationPrior",
    "GeometricCount",
    "GuidedWalkConfig",
    "GuidedWalkPrior",
    "RandomWalkConfig",
    "RandomWalkPrior",
    "Renderer",
    "ScenePrior",
    "SizedWhere",
    "conv_renderer",
    "given_discovery",
    "given_propagation",
    "mlp_renderer",
]
