# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The AIR generative model, frame by frame (Eslami et al. 2016; Kosiorek et al. 2018, Section 2 and D.2)."""

from __future__ import annotations

import pyro
from torch import Tensor

from pyro_sqair.models.discovery import DiscoveryPrior, GeometricCount, where_prior
from pyro_sqair.models.renderer import Renderer, mlp_renderer
from pyro_sqair.models.sqair import DiscoveryPriorProgram, RendererProgram
from pyro_sqair.nn.networks import NoContext
from pyro_sqair.scene.distributions import ImageNormal
from pyro_sqair.scene.objects import SceneConfig, State, merge, no_objects
from pyro_sqair.scene.program import GenerativeProgram
from pyro_sqair.scene.slots import DiscoverySlots, Prefix


class AIR(GenerativeProgram):
    r"""SQAIR without propagation: every frame is a scene of its own, and every object in it a new one.

    .. code-block:: text

        D_t --discovery--> z_t --renderer--> x_t        for each t by itself

        p(x, z, D) = prod_t p^D(D_t, z_t) p(x_t | z_t)

    Its sites are those of SQAIR's first frame, in every frame.

    Args:
        discovery_prior: any discovery prior; it is always told that the frame is the first.
        renderer: any renderer.
        scene: the sizes it shares with the guide.

    Raises:
        ValueError: if a part draws wrong sites or shapes, or makes images of a wrong size; with the numbers.
    """

    def __init__(self, discovery_prior: DiscoveryPriorProgram, renderer: RendererProgram, scene: SceneConfig) -> None:
        super().__init__(scene)
        self.discovery_prior = discovery_prior
        self.renderer = renderer
        self.rehearse()

    def step(self, t: int, state: State, frame: Tensor | None = None) -> State:
        """One frame; nothing of ``state`` matters but which ids are taken. See :meth:`Program.step`."""
        with Prefix(f"frame_{t}"):
            nothing = no_objects(state.objects.pres.shape[-2], self.scene, state.objects.pres)
            slots = DiscoverySlots(nothing)
            with slots.phase_prefix():
                self.part("discovery_prior")(nothing, slots, True)
            discovered = slots.objects(None, self.scene.what_dim, nothing.pres)
            state = merge(nothing, discovered, state.next_id)
            renderer = self.part("renderer")
            mean = renderer(state.objects)
            pyro.sample("image", ImageNormal(mean, renderer.std), obs=frame)
        return state._replace(image=mean)

    @classmethod
    def build(
        cls,
        scene: SceneConfig,
        hidden_size: int = 256,
        success: float = 0.5,
        renderer: Renderer | None = None,
    ) -> AIR:
        """The generative half of MLP-AIR (paper, D.2), with a geometric prior on the number of objects.

        Args:
            scene: sizes of images, glimpses and latents.
            hidden_size: units of every network.
            success: how much less likely each further object is.
            renderer: the default is that of MLP-SQAIR.
        """
        if renderer is None:
            renderer = mlp_renderer(scene, hidden_size)
        nothing = NoContext()
        where = where_prior(scene, nothing.output_size + 1)
        prior = DiscoveryPrior(scene.num_slots, scene.what_dim, nothing, GeometricCount(success), where)
        return cls(prior, renderer, scene)
