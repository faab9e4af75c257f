# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The AIR inference program, frame by frame (Eslami et al. 2016; Kosiorek et al. 2018, Algorithm 3)."""

from __future__ import annotations

from pyro_sqair.guides.discovery import DiscoveryGuide
from pyro_sqair.guides.sqair import DiscoveryGuideProgram, SQAIRGuide
from pyro_sqair.guides.vision import Vision, mlp_vision
from pyro_sqair.nn.networks import NoContext
from pyro_sqair.scene.objects import SceneConfig


class AIRGuide(SQAIRGuide):
    """SQAIR's guide without propagation: it discovers the objects of every frame anew.

    Args:
        discovery: any discovery guide.
        scene: sizes shared with the model.

    Raises:
        ValueError: if the discovery guide draws wrong sites or shapes.
    """

    def __init__(self, discovery: DiscoveryGuideProgram, scene: SceneConfig) -> None:
        super().__init__(discovery, None, scene)

    @classmethod
    def build(  # type: ignore[override]
        cls, scene: SceneConfig, hidden_size: int = 256, vision: Vision | None = None
    ) -> AIRGuide:
        """The inference half of MLP-AIR, with the networks of SQAIR's discovery (paper, D.2).

        Args:
            scene: sizes of images, glimpses and latents.
            hidden_size: units of every network.
            vision: encoders of images and glimpses; the default is that of MLP-SQAIR.
        """
        if vision is None:
            vision = mlp_vision(scene, hidden_size)
        return cls(DiscoveryGuide(vision, NoContext(), hidden_size, initial_where=scene.box), scene)
