# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The SQAIR inference program (Kosiorek et al. 2018, Section 3, Eq. 4; Algorithms 2 and 3)."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from pyro_sqair.scene.objects import Objects, SceneConfig, State, merge, no_objects
from pyro_sqair.scene.program import Program
from pyro_sqair.scene.slots import DiscoverySlots, Prefix, PropagationSlots, Slots


class PropagationGuideProgram(Protocol):
    """A propagation guide: draws every slot and returns the new memory, shape ``[*, N, M]``, or None.

    An optional attribute ``initial_memory``, shape ``[M]``, is the memory of an object just discovered.
    """

    def __call__(self, frame: Tensor, previous: Objects, memory: Tensor | None, slots: Slots) -> Tensor | None: ...


class DiscoveryGuideProgram(Protocol):
    """A discovery guide: draws every slot given the frame and the propagated objects."""

    def __call__(self, frame: Tensor, propagated: Objects, slots: Slots) -> None: ...


class SQAIRGuide(Program):
    r"""Propagates objects from frame to frame and discovers new ones (Eq. 4).

    .. code-block:: text

        x_t ----------------+--------------------+
                            v                    v
        z_{t-1} ------> propagation --> P_t --> discovery --> D_t
        h^T_{t-1} -------^     |         |                     |
                               v         +------> merge <------+
                             h^T_t                  |
                                                   z_t

        q(D, z | x) = prod_t q^D(D_t, z_t^D | x_t, z_t^P) prod_i q^P(z_t^i | z_{t-1}^i, h_t^{T,i}, h_t^{R,i})

    Args:
        discovery: any :class:`DiscoveryGuideProgram`.
        propagation: any :class:`PropagationGuideProgram`; None for AIR: all objects are new in each frame.
        scene: sizes shared with the model.

    Raises:
        ValueError: if a part draws wrong sites or shapes.
    """

    def __init__(
        self, discovery: DiscoveryGuideProgram, propagation: PropagationGuideProgram | None, scene: SceneConfig
    ) -> None:
        super().__init__(scene)
        self.discovery = discovery
        self.propagation = propagation
        self.rehearse()

    @property
    def fresh_memory(self) -> Tensor | None:
        """The propagation guide's memory of an object just discovered."""
        return getattr(self.part("propagation"), "initial_memory", None)

    def propagate(self, frame: Tensor, state: State) -> tuple[Objects, Tensor | None]:
        """q^P(z_t^{P_t} | x_t, z_{t-1}, h_{t-1}^T): finds the objects of the previous frame (Algorithm 2)."""
        previous, slots = state.objects, PropagationSlots(state.objects)
        with slots.phase_prefix():
            memory = self.part("propagation")(frame, previous, state.memory, slots)
        return slots.objects(previous.id, self.scene.what_dim, previous.pres), memory

    def discover(self, frame: Tensor, propagated: Objects) -> Objects:
        """q^D(D_t, z_t^{D_t} | x_t, z_t^{P_t}): finds new objects (Algorithm 3)."""
        slots = DiscoverySlots(propagated)
        with slots.phase_prefix():
            self.part("discovery")(frame, propagated, slots)
        return slots.objects(None, self.scene.what_dim, propagated.pres)

    def step(self, t: int, state: State, frame: Tensor | None = None) -> State:
        """Infers the objects of one frame. See :meth:`Program.step`."""
        if frame is None:
            raise ValueError(f"expected a frame in step {t} of the guide, got None")
        with Prefix(f"frame_{t}"):
            if t == 0 or self.part("propagation") is None:
                propagated, memory = no_objects(len(frame), self.scene, frame), state.memory
            else:
                propagated, memory = self.propagate(frame, state)
            discovered = self.discover(frame, propagated)
            return merge(propagated, discovered, state.next_id, memory, self.fresh_memory)
