# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Inference for propagation, q^P(z_t^{P_t} | x_t, z_{t-1}, h_t^T, h_t^R) (Kosiorek et al. 2018, Algorithm 2)."""

from __future__ import annotations

import math
from typing import Protocol

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_sqair.guides.baselines import baseline_options
from pyro_sqair.guides.vision import Appearance, GlimpseEncoder
from pyro_sqair.nn.networks import GRU, MLP, VanillaRNN, join, positive_scale
from pyro_sqair.nn.relations import NoRelations, Relations
from pyro_sqair.scene.distributions import CorrelatedNormal
from pyro_sqair.scene.objects import Objects, batch_shape, pad_slots, trim_slots
from pyro_sqair.scene.slots import Slots


class SharedFactor(nn.Module):
    """A learned lower-triangular matrix with a positive diagonal; it starts as the identity.

    Args:
        size: the number E of rows.
    """

    index: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.entries = nn.Parameter(torch.zeros(size * (size + 1) // 2))
        self.register_buffer("index", torch.tril_indices(size, size), persistent=False)
        self.size = size

    def forward(self) -> Tensor:
        """Shape ``[E, E]``."""
        full = self.entries.new_zeros(self.size, self.size).index_put(tuple(self.index), self.entries)
        return full.tril(-1) + torch.diag(full.diagonal().exp())


class GatedAppearance(nn.Module):
    """The distribution of ``what`` in propagation, as in the released code.

    The mean is f what_{t-1} + (1 - i) glimpse + (1 - tau) expected. The temporal state gives the gates f, i and tau
    and the expected appearance.

    Args:
        state_size: dimension of the temporal state h^T.
        what_dim: the dimension D of ``what``.
    """

    def __init__(self, state_size: int, what_dim: int) -> None:
        super().__init__()
        self.expected = nn.Linear(state_size, 2 * what_dim)
        self.gates = nn.Linear(state_size, 3 * what_dim)
        nn.init.ones_(self.gates.bias)

    def forward(self, state: Tensor, previous: Tensor, glimpse: Appearance) -> dist.Distribution:
        """The distribution given h_t^T, ``what_{t-1}`` and the encoded glimpse; batch shape ``[*]``."""
        loc, scale = self.expected(state).chunk(2, -1)
        # Gates stay below 1, so that the standard deviation is positive.
        keep, skip, tau = (torch.sigmoid(self.gates(state)) * 0.9999).chunk(3, -1)
        loc = keep * previous + (1 - skip) * glimpse.loc + (1 - tau) * loc
        return dist.Normal(loc, (1 - skip) * glimpse.scale + (1 - tau) * positive_scale(scale)).to_event(1)


class View(Protocol):
    """Features of the frame that the relation RNN reads before an object is located (Algorithm 2, lines 6-8).

    It is called with x_t of shape ``[B, C, H, W]``, z_{t-1} of shape ``[*, n]``, the temporal states h_{t-1}^T of shape
    ``[*, n, hidden]`` and the masks of the glimpses, ``[*, n, h w]``. It returns features of a shape that broadcasts to
    ``[*, n, F]``.

    Attributes:
        size: the number F of features per object.
    """

    size: int

    def __call__(self, frame: Tensor, previous: Objects, memory: Tensor, mask: Tensor) -> Tensor: ...


class ProposalGlimpse(nn.Module):
    """The encoded glimpse at the location proposed for each object (Algorithm 2, lines 6-8).

    The proposal depends on the previous frame only, so all objects are processed at once.

    Args:
        glimpse_encoder: shared with the final glimpse and with discovery.
        hidden_size: dimension of the temporal state h^T.
    """

    def __init__(self, glimpse_encoder: GlimpseEncoder, hidden_size: int) -> None:
        super().__init__()
        self.size = glimpse_encoder.what_dim
        self.glimpse_encoder = glimpse_encoder
        self.proposal = MLP(hidden_size, [128], 4)

    def forward(self, frame: Tensor, previous: Objects, memory: Tensor, mask: Tensor) -> Tensor:
        """The mean of ``what`` in each proposal glimpse, shape ``[*, n, D]``."""
        proposal = previous.where + 0.1 * self.proposal(memory)
        return self.glimpse_encoder(frame, proposal.movedim(-2, 0), mask.movedim(-2, 0)).loc.movedim(0, -2)


class PropagationGuide(nn.Module):
    """Finds every object of the previous frame in this frame, or removes it.

    Each object is located from a proposal glimpse at its expected location, and described from a final glimpse at the
    location drawn. The guide does not see the whole image, so objects do not swap identities (paper, Appendices A, F).

    Args:
        glimpse_encoder: shared with discovery.
        hidden_size: units of the recurrent networks and the perceptrons.
        relations: effects of objects on each other, an input of both recurrent networks (R-SQAIR, Eq. 4); None for
            SQAIR.
        baseline: predicts the cost downstream of ``pres`` from both hidden states and ``what``, ``[*, F]`` to ``[*]``
            with F = 2 hidden_size + D, for :class:`~pyro_sqair.infer.NVIL`. It is trained by its own loss.
        view: features of the frame for the relation RNN; the default is :class:`ProposalGlimpse`.
    """

    def __init__(
        self,
        glimpse_encoder: GlimpseEncoder,
        hidden_size: int,
        relations: Relations | None = None,
        baseline: nn.Module | None = None,
        view: View | None = None,
    ) -> None:
        super().__init__()
        self.glimpse_encoder = glimpse_encoder
        self.view = ProposalGlimpse(glimpse_encoder, hidden_size) if view is None else view
        self.mask = MLP(hidden_size, [128], math.prod(glimpse_encoder.glimpse_size), output_bias=1.0)
        self.relations = NoRelations() if relations is None else relations
        what_dim, effect = glimpse_encoder.what_dim, self.relations.size
        self.latent_size = what_dim + 4 + 1
        context_sizes = [self.view.size, self.latent_size + effect, hidden_size]
        self.relation = VanillaRNN(context_sizes, self.latent_size, hidden_size)
        self.where = MLP(2 * hidden_size + 4, [hidden_size, hidden_size], 8)
        self.scale_bias = nn.Parameter(torch.tensor(-4.0))  # for small initial standard deviations of ``where``
        self.factor = SharedFactor(4)
        self.temporal = GRU(hidden_size + 4 + 2 * what_dim + effect, hidden_size)
        self.what = GatedAppearance(hidden_size, what_dim)
        self.pres = MLP(2 * hidden_size + what_dim, [hidden_size // 2], 1, output_bias=5.0)
        self.baseline = baseline
        self.memory_sizes = (hidden_size, self.relations.state_size)
        self.register_buffer("initial_memory", torch.zeros(sum(self.memory_sizes)), persistent=False)

    def forward(self, frame: Tensor, previous: Objects, memory: Tensor, slots: Slots) -> Tensor:
        """Draws ``where``, ``what`` and ``pres`` in every slot.

        Args:
            frame: x_t, shape ``[B, C, H, W]``.
            previous: z_{t-1}, shape ``[*, N]``.
            memory: h_{t-1}^T and the state of the relations, shape ``[*, N, hidden + S]``.
            slots: the slots of this phase.

        Returns:
            h_t^T and the new state of the relations, shape ``[*, N, hidden + S]``.
        """
        previous = trim_slots(previous)
        memory, relation_state = memory[..., : previous.pres.shape[-1], :].split(self.memory_sizes, -1)
        effect, relation_state = self.relations(previous, relation_state)
        mask = torch.sigmoid(self.mask(memory))  # the pixels of the glimpse that are expected to belong to the object
        gamma = join(previous.what, previous.where, previous.pres.unsqueeze(-1), effect)
        context = self.relation.context(self.view(frame, previous, memory, mask), gamma, memory)
        # unbind instead of indexing: the gradient of an indexed slice is a full tensor of zeros with that slice in it.
        contexts, masks, memories = context.unbind(-2), mask.unbind(-2), list(memory.unbind(-2))
        wheres, whats, effects = previous.where.unbind(-2), previous.what.unbind(-2), effect.unbind(-2)
        factor = self.factor()

        hidden = self.relation.initial  # line 1
        other = frame.new_zeros(self.latent_size)  # z_t^j, the object of the slot before
        for i in slots:  # lines 3-5
            state = memories[i]
            hidden = self.relation(contexts[i], other, hidden)  # line 9, Eq. 14

            change, scale = self.where(join(hidden, wheres[i], state)).chunk(2, -1)
            scale = positive_scale(scale + self.scale_bias)
            where = pyro.sample("where", CorrelatedNormal(wheres[i] + change, scale, factor))  # line 10

            appearance = self.glimpse_encoder(frame, where, masks[i])  # lines 11-12
            memories[i] = self.temporal(join(hidden, where, *appearance, effects[i]), state)  # line 13, Eq. 15
            what = pyro.sample("what", self.what(memories[i], whats[i], appearance))  # line 14

            features = join(hidden, memories[i], what)
            logits = self.pres(features).squeeze(-1)
            infer = baseline_options(self.baseline, features)
            pres = pyro.sample("pres", dist.Bernoulli(logits=logits), infer=infer)  # line 15, Eq. 13
            other = join(what, where, pres.unsqueeze(-1))  # line 16
        batch = batch_shape(*(m.shape for m in memories))
        memory = torch.stack([m.expand(batch) for m in memories], -2)
        return pad_slots(join(memory, relation_state), slots.num)
