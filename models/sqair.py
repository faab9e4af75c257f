# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The SQAIR generative model (Kosiorek et al. 2018, Section 3, Eqs. 3 and 7-10, Algorithm 1)."""

from __future__ import annotations

from typing import Protocol

import pyro
from torch import Tensor

from pyro_sqair.scene.distributions import ImageNormal
from pyro_sqair.scene.objects import Objects, SceneConfig, State, merge, no_objects
from pyro_sqair.scene.program import Program
from pyro_sqair.scene.slots import DiscoverySlots, Prefix, PropagationSlots, Slots


class PropagationPriorProgram(Protocol):
    """A propagation prior: draws every slot given the previous objects and its own memory, and returns the new memory.

    It may be a plain function. Memory has shape ``[*, N, M]``, or is None for a prior without memory. An optional
    attribute ``initial_memory``, shape ``[M]``, is the memory of an object just discovered. Without it that memory is
    zero, and the argument is None until the prior has returned a tensor.
    """

    def __call__(self, previous: Objects, memory: Tensor | None, slots: Slots) -> Tensor | None: ...


class DiscoveryPriorProgram(Protocol):
    """A discovery prior: draws every slot given the propagated objects; ``first`` is True in the first frame."""

    def __call__(self, propagated: Objects, slots: Slots, first: bool) -> None: ...


class RendererProgram(Protocol):
    """A renderer: maps objects of shape ``[*, N]`` to the mean of an image, shape ``[*, C, H, W]``.

    Attributes:
        std: the standard deviation of a pixel around the mean, in units of intensity.
    """

    std: float

    def __call__(self, objects: Objects) -> Tensor: ...


class ScenePrior(Program):
    """The prior of scenes, p(z, D): :class:`SQAIR` without images.

    Its samples are scenes. A guide's draws that are replayed on it have the density log p(z, D). The content of the
    frames is not used::

        scenes = prior(frames[:0], steps=20)  # states of 20 frames; no frame is seen, all are drawn
        trace = poutine.trace(poutine.replay(prior, trace=guide_trace)).get_trace(frames)

    Args:
        discovery_prior: any :class:`DiscoveryPriorProgram`.
        propagation_prior: any :class:`PropagationPriorProgram`; None for AIR: frames are independent, and all objects
            of a frame are discovered in it, as in the first frame.
        scene: sizes shared with the guide.
    """

    generates = True

    def __init__(
        self,
        discovery_prior: DiscoveryPriorProgram,
        propagation_prior: PropagationPriorProgram | None,
        scene: SceneConfig,
    ) -> None:
        super().__init__(scene)
        self.discovery_prior = discovery_prior
        self.propagation_prior = propagation_prior

    @property
    def fresh_memory(self) -> Tensor | None:
        """The propagation prior's memory of an object just discovered."""
        return getattr(self.part("propagation_prior"), "initial_memory", None)

    def propagate(self, state: State) -> tuple[Objects, Tensor | None]:
        """p^P(z_t^{P_t} | z_{t-1}): moves, changes or removes the objects of the previous frame (Eq. 9)."""
        previous, slots = state.objects, PropagationSlots(state.objects)
        with slots.phase_prefix():
            memory = self.part("propagation_prior")(previous, state.memory, slots)
        return slots.objects(previous.id, self.scene.what_dim, previous.pres), memory

    def discover(self, propagated: Objects, first: bool) -> Objects:
        """p^D(D_t, z_t^{D_t} | z_t^{P_t}): adds the objects that enter the frame (Eq. 7)."""
        slots = DiscoverySlots(propagated)
        with slots.phase_prefix():
            self.part("discovery_prior")(propagated, slots, first)
        return slots.objects(None, self.scene.what_dim, propagated.pres)

    def step(self, t: int, state: State, frame: Tensor | None = None) -> State:
        """p^D(D_t, z_t^{D_t} | z_t^{P_t}) p^P(z_t^{P_t} | z_{t-1}), whatever the frame. See :meth:`Program.step`."""
        first = t == 0 or self.part("propagation_prior") is None
        with Prefix(f"frame_{t}"):
            if first:
                pres = state.objects.pres
                propagated, memory = no_objects(pres.shape[-2], self.scene, pres), state.memory
            else:
                propagated, memory = self.propagate(state)
            discovered = self.discover(propagated, first)
            return merge(propagated, discovered, state.next_id, memory, self.fresh_memory)


class SQAIR(ScenePrior):
    r"""Objects are discovered, propagated from frame to frame, and removed (Eq. 3).

    .. code-block:: text

        z_{t-1} --propagation--> P_t --+--> merge --> z_t --renderer--> x_t
                                  |    |               |
                                  +--discovery--> D_t -+               +--> z_{t+1}

        p(x, z, D) = p^D(D_1, z_1^D) prod_t p^D(D_t, z_t^D | z_t^P) p^P(z_t^P | z_{t-1}) p(x_t | z_t)

        frame_0/disc_0/pres  [K, B]       frame_1/prop_0/pres  [K, B]       frame_1/disc_0/pres  ...
        frame_0/disc_0/where [K, B] 4     frame_1/prop_0/where [K, B] 4
        frame_0/disc_0/what  [K, B] D     frame_1/prop_0/what  [K, B] D
        ...                               ...
        frame_0/image        [B] C H W    frame_1/image        [B] C H W

    Args:
        discovery_prior: any :class:`DiscoveryPriorProgram`.
        propagation_prior: any :class:`PropagationPriorProgram`; None for AIR: frames are independent, and all objects
            of a frame are discovered in it, as in the first frame.
        renderer: any :class:`RendererProgram`.
        scene: sizes shared with the guide.

    Raises:
        ValueError: if a part draws wrong sites or shapes, or the renderer makes images of the wrong size.
    """

    def __init__(
        self,
        discovery_prior: DiscoveryPriorProgram,
        propagation_prior: PropagationPriorProgram | None,
        renderer: RendererProgram,
        scene: SceneConfig,
    ) -> None:
        super().__init__(discovery_prior, propagation_prior, scene)
        self.renderer = renderer
        self.rehearse()

    def step(self, t: int, state: State, frame: Tensor | None = None) -> State:
        """One factor of Eq. 3; without a frame, one is drawn. See :meth:`Program.step`."""
        state = super().step(t, state)
        renderer = self.part("renderer")
        mean = renderer(state.objects)
        with Prefix(f"frame_{t}"):
            pyro.sample("image", ImageNormal(mean, renderer.std), obs=frame)
        return state._replace(image=mean)
