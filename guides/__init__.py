# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Inference programs: components and complete guides."""

from pyro_sqair.guides.ablations import ForgetfulPropagationGuide, NoView, WholeImage
from pyro_sqair.guides.discovery import DiscoveryGuide
from pyro_sqair.guides.propagation import PropagationGuide, ProposalGlimpse, View
from pyro_sqair.guides.sqair import SQAIRGuide
from pyro_sqair.guides.vision import Vision, conv_vision, mlp_vision
from pyro_sqair.guides.vrnn import VRNNGuide

__all__ = [
    "DiscoveryGuide",
    "ForgetfulPropagationGuide",
    "NoView",
    "PropagationGuide",
    "ProposalGlimpse",
    "SQAIRGuide",
    "VRNNGuide",
    "View",
    "Vision",
    "WholeImage",
    "conv_vision",
    "mlp_vision",
]
