# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Inference programs: what is seen, where it is, and where it went."""

from pyro_sqair.guides.ablations import ForgetfulPropagationGuide, NoView, WholeImage
from pyro_sqair.guides.air import AIRGuide
from pyro_sqair.guides.discovery import DiscoveryGuide
from pyro_sqair.guides.glimpse import Appearance, GlimpseEncoder, GlimpseMask, mlp_glimpse_encoder
from pyro_sqair.guides.propagation import GatedAppearance, PropagationGuide, ProposalGlimpse, SharedFactor, View
from pyro_sqair.guides.sqair import SQAIRGuide
from pyro_sqair.guides.vision import Vision, conv_vision, mlp_vision
from pyro_sqair.guides.vrnn import VRNNGuide

__all__ = [
    "AIRGuide",
    "Appearance",
    "DiscoveryGuide",
    "ForgetfulPropagationGuide",
    "GatedAppearance",
    "GlimpseEncoder",
    "GlimpseMask",
    "NoView",
    "PropagationGuide",
    "ProposalGlimpse",
    "SQAIRGuide",
    "SharedFactor",
    "VRNNGuide",
    "View",
    "Vision",
    "WholeImage",
    "conv_vision",
    "mlp_glimpse_encoder",
    "mlp_vision",
]
