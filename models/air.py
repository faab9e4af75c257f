# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The AIR generative model, frame by frame (Eslami et al. 2016; Kosiorek et al. 2018, Section 2 and D.2)."""

from __future__ import annotations

from pyro_sqair.models.discovery import DiscoveryPrior, GeometricCount, where_prior
from pyro_sqair.models.renderer import Renderer, mlp_renderer
from pyro_sqair.models.sqair import SQAIR, DiscoveryPriorProgram, RendererProgram
from pyro_sqair.nn.networks import NoContext
from pyro_sqair.scene.objects import SceneConfig


class AIR(SQAIR):
    r"""SQAIR without propagation: frames are independent, and all objects of a frame are new.

    .. code-block:: text

        D_t --discovery--> z_t --renderer--> x_t        for each t

        p(x, z, D) = prod_t p^D(D_t, z_t) p(x_t | z_t)

    In every frame its sites are those of SQAIR's first frame.

    Args:
        discovery_prior: any discovery prior, called with ``first=True`` in every frame.
        renderer: any renderer.
        scene: sizes shared with the guide.

    Raises:
        ValueError: if a part draws wrong sites or shapes, or the renderer makes images of the wrong size.
    """

    def __init__(self, discovery_prior: DiscoveryPriorProgram, renderer: RendererProgram, scene: SceneConfig) -> None:
        super().__init__(discovery_prior, None, renderer, scene)

    @classmethod
    def build(  # type: ignore[override]
        cls, scene: SceneConfig, hidden_size: int = 256, success: float = 0.5, renderer: Renderer | None = None
    ) -> AIR:
        """The generative half of MLP-AIR (paper, D.2), with a geometric prior on the number of objects.

        Args:
            scene: sizes of images, glimpses and latents.
            hidden_size: units of every network.
            success: see :class:`GeometricCount`.
            renderer: the default is that of MLP-SQAIR.
        """
        if renderer is None:
            renderer = mlp_renderer(scene, hidden_size)
        where = where_prior(scene, 1)
        prior = DiscoveryPrior(scene.num_slots, scene.what_dim, NoContext(), GeometricCount(success), where)
        return cls(prior, renderer, scene)
