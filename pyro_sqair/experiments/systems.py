# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The systems of the papers: each builds a model, its guide and their estimator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pyro.infer import ELBO

from pyro_sqair.experiments.fitted import FittedPrior, PropagationConfig, RelationsConfig
from pyro_sqair.guides import DiscoveryGuide, PropagationGuide, SQAIRGuide, VRNNGuide, conv_vision, mlp_vision
from pyro_sqair.infer import FIVO, VIMCO
from pyro_sqair.models import (
    SQAIR,
    VRNN,
    DiscoveryPrior,
    FixedCount,
    GeometricCount,
    GRUPriorConfig,
    conv_renderer,
    mlp_renderer,
)
from pyro_sqair.nn.backbone import VRNNBackbone, VRNNConfig, conv_vrnn
from pyro_sqair.nn.convolutions import ConvolutionConfig, pedestrian_convolutions
from pyro_sqair.nn.networks import NoContext, SetEncoder
from pyro_sqair.nn.relations import InteractionConfig, MemoryCoreConfig, Relations
from pyro_sqair.scene.objects import LARGEST_SIZE, SceneConfig


@dataclass(frozen=True)
class SQAIRSystem:
    """SQAIR, CONV-SQAIR and R-SQAIR.

    Attributes:
        hidden_size: units of every network.
        decoder_size: units of the glimpse decoder of MLP-SQAIR; None for ``hidden_size``.
        output_scale: initial value of the learned scale of the decoder's output.
        object_costs: nats per object discovered in the first frame and in later ones (a fixed count prior); None for
            the paper's learned count prior.
        convolutions: sizes of the convolutional networks (CONV-SQAIR); None for perceptrons.
        relations: effects of objects on each other (R-SQAIR); None for SQAIR.
        propagation: the propagation prior.
        fitted: the prior fitted alone that replaces the one trained with the guide; None if there is none.

    Raises:
        ValueError: if a size is not from 1 to 4096, or a cost or ``output_scale`` is not valid.
    """

    hidden_size: int = 256
    decoder_size: int | None = None
    output_scale: float = 0.25
    object_costs: tuple[float, float] | None = None
    convolutions: ConvolutionConfig | None = None
    relations: RelationsConfig | None = None
    propagation: PropagationConfig = field(default_factory=GRUPriorConfig)
    fitted: FittedPrior | None = None

    def __post_init__(self) -> None:
        _check_networks(self)
        if self.object_costs is not None:
            FixedCount(*self.object_costs)

    def programs(self, scene: SceneConfig) -> tuple[SQAIR, SQAIRGuide]:
        """A model and its guide; without a fitted prior they share the encoder of propagated objects and the relations.

        Raises:
            ValueError: if the fitted prior is a :class:`CustomPrior` that cannot be imported, or does not fit.
        """
        encoder, relations = self._context(self.relations, scene)
        fitted = self.fitted
        own = (encoder, relations) if fitted is None else self._context(fitted.relations, scene)
        count = None if self.object_costs is None else FixedCount(*self.object_costs)
        prior = (fitted or self).propagation.build(scene.what_dim, self.hidden_size, own[1])
        if self.convolutions is None:
            vision = mlp_vision(scene, self.hidden_size)
            renderer = mlp_renderer(scene, self.decoder_size or self.hidden_size, self.output_scale)
        else:
            vision = conv_vision(scene, self.hidden_size, self.convolutions)
            renderer = conv_renderer(scene, self.convolutions, self.output_scale)
        model = SQAIR(DiscoveryPrior(scene, own[0], count), prior, renderer, scene)
        discovery = DiscoveryGuide(scene, vision, encoder, self.hidden_size)
        propagation = PropagationGuide(vision.glimpse, self.hidden_size, relations)
        return model, SQAIRGuide(discovery, propagation, scene)

    def _context(self, relations: RelationsConfig | None, scene: SceneConfig) -> tuple[SetEncoder, Relations | None]:
        """An encoder of propagated objects and a relational module, with fresh weights."""
        encoder = SetEncoder(scene.what_dim, self.hidden_size)
        return encoder, None if relations is None else relations.build(scene.what_dim)

    def estimator(self, num_particles: int) -> ELBO:
        """VIMCO, as in the paper."""
        return VIMCO(num_particles)


@dataclass(frozen=True)
class AIRSystem:
    """AIR: SQAIR without propagation, so frames are independent (Eslami et al. 2016; Kosiorek et al. 2018, D.2).

    Attributes:
        hidden_size: units of every network.
        decoder_size: units of the glimpse decoder; None for ``hidden_size``.
        output_scale: initial value of the learned scale of the decoder's output.
        success: ratio p(D + 1) / p(D) of the geometric prior on the number of objects.

    Raises:
        ValueError: if a size is not from 1 to 4096, or ``output_scale`` or ``success`` is not valid.
    """

    hidden_size: int = 256
    decoder_size: int | None = None
    output_scale: float = 0.25
    success: float = 0.5

    def __post_init__(self) -> None:
        _check_networks(self)
        GeometricCount(self.success)

    def programs(self, scene: SceneConfig) -> tuple[SQAIR, SQAIRGuide]:
        """A model and its guide, with the networks of SQAIR's discovery."""
        renderer = mlp_renderer(scene, self.decoder_size or self.hidden_size, self.output_scale)
        discovery_prior = DiscoveryPrior(scene, NoContext(), GeometricCount(self.success))
        vision = mlp_vision(scene, self.hidden_size)
        discovery = DiscoveryGuide(scene, vision, NoContext(), self.hidden_size)
        return SQAIR(discovery_prior, None, renderer, scene), SQAIRGuide(discovery, None, scene)

    def estimator(self, num_particles: int) -> ELBO:
        """VIMCO, as SQAIR."""
        return VIMCO(num_particles)


@dataclass(frozen=True)
class VRNNSystem:
    """VRNN, a recurrent model without objects.

    Attributes:
        networks: sizes of the networks.
    """

    networks: VRNNConfig = field(default_factory=VRNNConfig)

    def programs(self, scene: SceneConfig) -> tuple[VRNN, VRNNGuide]:
        """A model and its guide, which share the recurrent network."""
        backbone = VRNNBackbone(scene, self.networks)
        return VRNN(backbone), VRNNGuide(backbone)

    def estimator(self, num_particles: int) -> ELBO:
        """FIVO, as in the paper."""
        return FIVO(num_particles)


def convolutions_for(glimpse_size: tuple[int, int]) -> ConvolutionConfig:
    """The convolutional networks of moving MNIST, with a decoder for glimpses of the given size.

    Args:
        glimpse_size: (h, w) in pixels, multiples of 4.

    Raises:
        ValueError: if a side is not a multiple of 4.
    """
    height, width = glimpse_size
    if height % 4 or width % 4:
        raise ValueError(f"expected glimpses whose sides are multiples of 4 pixels, got {tuple(glimpse_size)}")
    if (height, width) == (28, 12):
        return pedestrian_convolutions()
    return replace(ConvolutionConfig(), decoder_start=(height // 4, width // 4))


def _check_networks(system: SQAIRSystem | AIRSystem) -> None:
    for name in ("hidden_size", "decoder_size"):
        if (size := getattr(system, name)) is not None and not 1 <= size <= LARGEST_SIZE:
            raise ValueError(f"expected {name} from 1 to {LARGEST_SIZE}, got {size}")
    if not math.isfinite(system.output_scale):
        raise ValueError(f"expected a finite output_scale, got {system.output_scale}")


System = SQAIRSystem | AIRSystem | VRNNSystem
"""How to build a model and its guide (`programs`), and the estimator that trains them (`estimator`)."""

SYSTEMS: dict[str, Callable[[SQAIRSystem, tuple[int, int]], System]] = {
    "sqair": lambda sqair, glimpse: sqair,
    "conv-sqair": lambda sqair, glimpse: replace(sqair, convolutions=convolutions_for(glimpse)),
    "r-sqair-in": lambda sqair, glimpse: replace(sqair, relations=InteractionConfig()),
    "r-sqair-rmc": lambda sqair, glimpse: replace(sqair, relations=MemoryCoreConfig()),
    "air": lambda sqair, glimpse: AIRSystem(sqair.hidden_size, sqair.decoder_size, sqair.output_scale),
    "vrnn": lambda sqair, glimpse: VRNNSystem(),
    "conv-vrnn": lambda sqair, glimpse: VRNNSystem(conv_vrnn()),
}
"""Every system by name, as a function of a SQAIR system with the sizes to use and of the glimpse size."""
