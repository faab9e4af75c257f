# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The SQAIR generative model (Kosiorek et al. 2018, Section 3, Eqs. 3 and 7-10, Algorithm 1)."""

from __future__ import annotations

from typing import Protocol

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_sqair.distributions import ImageNormal
from pyro_sqair.frames import check_frames
from pyro_sqair.models.discovery import DiscoveryPrior
from pyro_sqair.models.propagation import GRUPropagationPrior
from pyro_sqair.models.renderer import Renderer, mlp_renderer
from pyro_sqair.networks import SetEncoder
from pyro_sqair.scene import Objects, SceneConfig, State, initial_state, merge
from pyro_sqair.slots import DiscoverySlots, Prefix, PropagationSlots, Slots


class PropagationPriorProgram(Protocol):
    """A propagation prior: draws every slot given the previous objects and its own memory, returns the new memory.

    A plain function will do. A prior with memory returns a tensor of shape ``[*, N, M]`` and says what an object just
    discovered starts with in an attribute ``initial_memory`` of shape ``[M]``; without that, memory is None.
    """

    def __call__(self, previous: Objects, memory: Tensor | None, slots: Slots) -> Tensor | None: ...


class DiscoveryPriorProgram(Protocol):
    """A discovery prior: draws every slot given the propagated objects; ``first`` says if this is the first frame."""

    def __call__(self, propagated: Objects, slots: Slots, first: bool) -> None: ...


class SQAIR(PyroModule):
    r"""Objects are discovered, propagated from frame to frame, and forgotten (Eq. 3).

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
        propagation_prior: any :class:`PropagationPriorProgram`.
        renderer: maps objects to the mean of an image.
        num_slots: the largest number N of objects in a frame.
        what_dim: the dimension D of ``what``.
    """

    def __init__(
        self,
        discovery_prior: DiscoveryPriorProgram,
        propagation_prior: PropagationPriorProgram,
        renderer: Renderer,
        num_slots: int,
        what_dim: int,
    ) -> None:
        super().__init__()
        self.discovery_prior = discovery_prior
        self.propagation_prior = propagation_prior
        self.renderer = renderer
        self.num_slots = num_slots
        self.what_dim = what_dim

    def init(self, batch: int) -> State:
        """The state before the first frame: nothing is there yet."""
        fresh = getattr(self.propagation_prior, "initial_memory", None)
        return initial_state(batch, self.num_slots, self.what_dim, self.renderer.mean_image, fresh)

    def propagate(self, state: State) -> tuple[Objects, Tensor | None]:
        """p^P(z_t^{P_t} | z_{t-1}): moves, changes or forgets the objects of the previous frame (Eq. 9)."""
        slots = PropagationSlots(state.objects)
        memory = self.propagation_prior(state.objects, state.memory, slots)
        return slots.objects(state.objects.id, self.what_dim, state.objects.pres), memory

    def discover(self, propagated: Objects, first: bool) -> Objects:
        """p^D(D_t, z_t^{D_t} | z_t^{P_t}): adds the objects that enter the frame (Eq. 7)."""
        slots = DiscoverySlots(propagated)
        self.discovery_prior(propagated, slots, first)
        return slots.objects(None, self.what_dim, propagated.pres)

    def step(self, t: int, state: State, frame: Tensor | None = None) -> State:
        """One factor of Eq. 3, within whatever plates the caller has opened.

        Args:
            t: the index of the frame, from 0.
            state: from :meth:`init` or the previous step.
            frame: the observed image, shape ``[B, C, H, W]``; None to draw one.

        Returns:
            The state of frame t.
        """
        with Prefix(f"frame_{t}"):
            if t == 0:
                propagated, memory = state.objects, state.memory
            else:
                propagated, memory = self.propagate(state)
            discovered = self.discover(propagated, first=t == 0)
            fresh = getattr(self.propagation_prior, "initial_memory", None)
            state = merge(propagated, discovered, state.next_id, memory, fresh)
            mean = self.renderer(state.objects)
            pyro.sample("image", ImageNormal(mean, self.renderer.std), obs=frame)
        return state._replace(image=mean)

    def forward(self, frames: Tensor, steps: int | None = None) -> list[State]:
        """Runs over T frames.

        Args:
            frames: observed video, shape ``[S, B, C, H, W]``, values in [0, 1]; S may be 0.
            steps: how many frames T >= S to run over; frames after the S-th are generated. The default is S.

        Returns:
            The T states.
        """
        check_frames(frames, self.renderer.channels, self.renderer.image_size)
        seen, batch = frames.shape[:2]
        states: list[State] = []
        with pyro.plate("sequences", batch, dim=-1):
            state = self.init(batch)
            for t in pyro.markov(range(seen if steps is None else steps)):
                state = self.step(t, state, frames[t] if t < seen else None)
                states.append(state)
        return states

    @classmethod
    def build(
        cls,
        scene: SceneConfig,
        hidden_size: int = 256,
        encoder: SetEncoder | None = None,
        count: nn.Module | None = None,
        std: float = 0.3,
    ) -> SQAIR:
        """The generative half of MLP-SQAIR (paper, D.2).

        Args:
            scene: sizes of images, glimpses and latents.
            hidden_size: units of every network.
            encoder: summarises propagated objects; pass the guide's own to share it, as the released code does.
            count: the count prior; the default is learned.
            std: the standard deviation of a pixel.
        """
        if encoder is None:
            encoder = SetEncoder(scene.what_dim, hidden_size)
        return cls(
            DiscoveryPrior(scene.num_slots, scene.what_dim, encoder, count),
            GRUPropagationPrior(scene.what_dim, hidden_size),
            mlp_renderer(scene.what_dim, hidden_size, scene.channels, scene.glimpse_size, scene.image_size, std),
            scene.num_slots,
            scene.what_dim,
        )
