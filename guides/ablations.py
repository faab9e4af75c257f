# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""What SQAIR's guide loses without one of its parts: other propagation guides to pass to it.

The proposal glimpse shows the relation RNN no more of the frame than the place where an object is expected. The
paper's first version showed it an encoding of the whole image, which is what discovery sees, and identities were
swapped (Kosiorek et al. 2018, Appendices A and F, Fig. 9): that is :class:`ImagePropagationGuide`.
:class:`UnsightedPropagationGuide` shows it nothing, and :class:`ForgetfulPropagationGuide` propagates nothing, so that
every frame is discovered anew.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from pyro_sqair.guides.glimpse import GlimpseEncoder
from pyro_sqair.guides.propagation import PropagationGuide
from pyro_sqair.nn.networks import VanillaRNN
from pyro_sqair.nn.relations import Relations
from pyro_sqair.scene.objects import Objects
from pyro_sqair.scene.slots import Slots


class ImagePropagationGuide(PropagationGuide):
    """Algorithm 2 with line 3 of Algorithm 3 in place of lines 6-8: the relation RNN sees the whole image.

    Args:
        image_encoder: maps flat images of shape ``[B, C H W]`` to ``[B, image_features]``; pass discovery's to give
            propagation the same access to the image, as in the paper.
        image_features: size of its output.
        glimpse_encoder: shared with discovery.
        what_dim: the dimension D of ``what``.
        hidden_size: units of the recurrent networks and the perceptrons.
        presence_bias: the logit of an object's staying starts here.
        scale_bias: the softplus of this is where the standard deviations of ``where`` start.
        relations: see :class:`PropagationGuide`.
        baseline: see :class:`PropagationGuide`.
    """

    def __init__(
        self,
        image_encoder: nn.Module,
        image_features: int,
        glimpse_encoder: GlimpseEncoder,
        what_dim: int,
        hidden_size: int,
        presence_bias: float = 5.0,
        scale_bias: float = -4.0,
        relations: Relations | None = None,
        baseline: nn.Module | None = None,
    ) -> None:
        super().__init__(glimpse_encoder, what_dim, hidden_size, presence_bias, scale_bias, relations, baseline)
        del self.proposal
        self.image_encoder = image_encoder
        latent = what_dim + 4 + 1
        sizes = [image_features, latent + self.relations.size, hidden_size]
        self.relation = VanillaRNN(sizes, latent, hidden_size)

    def look_ahead(self, frame: Tensor, previous: Objects, memory: Tensor, mask: Tensor) -> Tensor:
        """The encoded image, the same for every object, shape ``[B, 1, image_features]``."""
        return self.image_encoder(frame.flatten(-3)).unsqueeze(-2)


class UnsightedPropagationGuide(ImagePropagationGuide):
    """Algorithm 2 without lines 6-8: of the frame an object sees only its final glimpse, when it has been placed.

    Args:
        glimpse_encoder: shared with discovery.
        what_dim: the dimension D of ``what``.
        hidden_size: units of the recurrent networks and the perceptrons.
        presence_bias: the logit of an object's staying starts here.
        scale_bias: the softplus of this is where the standard deviations of ``where`` start.
        relations: see :class:`PropagationGuide`.
        baseline: see :class:`PropagationGuide`.
    """

    def __init__(
        self,
        glimpse_encoder: GlimpseEncoder,
        what_dim: int,
        hidden_size: int,
        presence_bias: float = 5.0,
        scale_bias: float = -4.0,
        relations: Relations | None = None,
        baseline: nn.Module | None = None,
    ) -> None:
        sizes = what_dim, hidden_size, presence_bias, scale_bias
        super().__init__(Blindfold(), 0, glimpse_encoder, *sizes, relations, baseline)


class Blindfold(nn.Module):
    """Sees nothing: an encoder with no features."""

    def forward(self, image: Tensor) -> Tensor:
        """Shape ``[B, *]`` to ``[B, 0]``."""
        return image[..., :0]


class ForgetfulPropagationGuide:
    """Lets go of every object, so that each frame is discovered anew.

    At a probability of exactly zero the weights would be finite and wrong: no particle could tell of an object that
    stays, and their average would be the evidence of the histories in which none does. So an object stays now and then;
    it is then drawn around where and as it was, and its presence adds -log(stay) nats (13.8) to a log weight. The
    average weight is p(x) again, in principle: by default such particles are too rare to count on, and the bound that
    one sees is that of discovery alone.

    Args:
        stay: the probability that an object stays.
        std: the standard deviation of its ``where`` and ``what`` around the previous ones.
    """

    def __init__(self, stay: float = 1e-6, std: float = 1.0) -> None:
        if not 0 < stay < 1 or not std > 0:
            raise ValueError(f"expected a probability of staying in (0, 1) and std above 0, got {stay} and {std}")
        self.stay = stay
        self.std = std

    def __call__(self, frame: Tensor, previous: Objects, memory: Tensor | None, slots: Slots) -> None:
        """Draws ``where``, ``what`` and ``pres`` in every slot; there is no memory."""
        stay = frame.new_tensor(self.stay)
        for i in slots:
            pyro.sample("where", dist.Normal(previous.where[..., i, :], self.std).to_event(1))
            pyro.sample("what", dist.Normal(previous.what[..., i, :], self.std).to_event(1))
            pyro.sample("pres", dist.Bernoulli(stay))
