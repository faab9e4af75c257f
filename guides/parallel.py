# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""An inference program whose depth does not grow with the number of objects.

The paper's guide visits objects one after the other: what it drew for one is an input of the networks for the next
(Kosiorek et al. 2018, Algorithms 2 and 3). Here attention takes the place of both recurrent networks, and one pass of
every network serves all slots. Sites are the same, one for each object.

.. code-block:: text

    propagation   glimpse --> attend to the others --> where --> glimpse --> temporal state --> what, pres

    discovery     windows --> look --> attend to earlier slots and known objects --> where --> glimpse --> what, pres

The price is independence: given the frame and the past, slots are independent but for the rule of who may be present,
and ``what`` and ``pres`` depend on where an object is expected, the mean of its ``where``, and not on the draw. A
trained guide puts the two a fraction of a pixel apart.
"""

from __future__ import annotations

from pyro_sqair.guides.glimpse import GlimpseEncoder, mlp_glimpse_encoder
from pyro_sqair.guides.parallel_discovery import ParallelDiscoveryGuide
from pyro_sqair.guides.parallel_propagation import ParallelPropagationGuide
from pyro_sqair.guides.sqair import SQAIRGuide
from pyro_sqair.scene import SceneConfig


def parallel_guide(scene: SceneConfig, hidden_size: int = 256, glimpse: GlimpseEncoder | None = None) -> SQAIRGuide:
    """A guide that treats all slots at once, for the models that SQAIR's own guide serves.

    Args:
        scene: sizes of images, glimpses and latents.
        hidden_size: units of every network.
        glimpse: encodes glimpses; the default is that of MLP-SQAIR.
    """
    if glimpse is None:
        glimpse = mlp_glimpse_encoder(scene.what_dim, hidden_size, scene.channels, scene.glimpse_size)
    return SQAIRGuide(
        ParallelDiscoveryGuide(scene.image_size, glimpse, scene.what_dim, hidden_size, search=scene.box),
        ParallelPropagationGuide(glimpse, scene.what_dim, hidden_size),
        scene,
    )
