# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The AIR inference program, frame by frame (Eslami et al. 2016; Kosiorek et al. 2018, Algorithm 3)."""

from __future__ import annotations

from torch import Tensor

from pyro_sqair.guides.discovery import DiscoveryGuide
from pyro_sqair.guides.sqair import DiscoveryGuideProgram
from pyro_sqair.guides.vision import Vision, mlp_vision
from pyro_sqair.nn.networks import NoContext
from pyro_sqair.scene.objects import SceneConfig, State, merge, no_objects
from pyro_sqair.scene.program import Program
from pyro_sqair.scene.slots import DiscoverySlots, Prefix


class AIRGuide(Program):
    """Discovers the objects of every frame anew, whatever was in the frame before.

    Args:
        discovery: any discovery guide.
        scene: the sizes it shares with the model.

    Raises:
        ValueError: if a part draws wrong sites or shapes; with the numbers.
    """

    def __init__(self, discovery: DiscoveryGuideProgram, scene: SceneConfig) -> None:
        super().__init__(scene)
        self.discovery = discovery
        self.rehearse()

    def step(self, t: int, state: State, frame: Tensor | None = None) -> State:
        """Infers the objects of one frame. See :meth:`Program.step`."""
        if frame is None:
            raise ValueError(f"expected a frame to look at in step {t} of the guide, got None")
        with Prefix(f"frame_{t}"):
            nothing = no_objects(len(frame), self.scene, frame)
            slots = DiscoverySlots(nothing)
            with slots.phase_prefix():
                self.part("discovery")(frame, nothing, slots)
            return merge(nothing, slots.objects(None, self.scene.what_dim, frame), state.next_id)

    @classmethod
    def build(cls, scene: SceneConfig, hidden_size: int = 256, vision: Vision | None = None) -> AIRGuide:
        """The inference half of MLP-AIR, whose networks are those of SQAIR's discovery (paper, D.2).

        Args:
            scene: sizes of images, glimpses and latents.
            hidden_size: units of every network.
            vision: encoders of image and glimpses; the default are those of MLP-SQAIR.
        """
        image, features, glimpse = mlp_vision(scene, hidden_size) if vision is None else vision
        sizes = scene.what_dim, hidden_size
        return cls(DiscoveryGuide(image, features, NoContext(), glimpse, *sizes, search=scene.box), scene)
