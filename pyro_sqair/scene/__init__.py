# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The building blocks of models and guides: objects, slots, presence, programs and spatial transforms."""

from pyro_sqair.scene.distributions import ImageNormal
from pyro_sqair.scene.objects import Objects, SceneConfig, State, initial_state, merge
from pyro_sqair.scene.program import Program, with_slots
from pyro_sqair.scene.slots import DiscoverySlots, Prefix, PropagationSlots, Slots
from pyro_sqair.scene.spatial import boxes, crop, paste, place, where_from_boxes

__all__ = [
    "DiscoverySlots",
    "ImageNormal",
    "Objects",
    "Prefix",
    "Program",
    "PropagationSlots",
    "SceneConfig",
    "Slots",
    "State",
    "boxes",
    "crop",
    "initial_state",
    "merge",
    "paste",
    "place",
    "where_from_boxes",
    "with_slots",
]
