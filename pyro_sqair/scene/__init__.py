# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The building blocks of models and guides: objects, slots, presence, programs and spatial transforms."""

from pyro_sqair.scene.distributions import CorrelatedNormal, ImageNormal
from pyro_sqair.scene.objects import Objects, SceneConfig, State, initial_state, merge, no_objects, stack_objects
from pyro_sqair.scene.presence import GatedPresence, IfPresent
from pyro_sqair.scene.program import GenerativeProgram, Program, with_slots
from pyro_sqair.scene.slots import DiscoverySlots, Prefix, PropagationSlots, Slots
from pyro_sqair.scene.spatial import boxes, crop, intersection_over_union, paste, place, where_from_boxes

__all__ = [
    "CorrelatedNormal",
    "DiscoverySlots",
    "GatedPresence",
    "GenerativeProgram",
    "IfPresent",
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
    "intersection_over_union",
    "merge",
    "no_objects",
    "paste",
    "place",
    "stack_objects",
    "where_from_boxes",
    "with_slots",
]
