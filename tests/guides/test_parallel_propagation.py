# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Parallel propagation against the same written out object by object, and its symmetry."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_sqair.attention import hide_absent
from pyro_sqair.guides import SQAIRGuide, parallel_guide
from pyro_sqair.guides.parallel_propagation import SlotLaws, look
from pyro_sqair.scene import Objects, SceneConfig

N, D, H, B, K = 3, 2, 8, 6, 2
SCENE = SceneConfig(num_slots=N, what_dim=D, image_size=(12, 16), glimpse_size=(6, 6))


def guide(scene: SceneConfig = SCENE) -> SQAIRGuide:
    """A small guide in double precision."""
    return parallel_guide(scene, H).double()


def some_objects(*batch: int, num: int = N) -> Objects:
    """Objects with gaps, as a program's state never has them, and something in the gaps."""
    pres = torch.randint(0, 2, (*batch, num)).double()
    pres.view(-1, num)[0] = 1  # somebody has an object in every slot, or it would be left out
    return Objects(pres, torch.randn(*batch, num, 4).double(), torch.randn(*batch, num, D).double(), pres.long() - 1)


def numbers(laws: list[SlotLaws]) -> Tensor:
    """All parameters, shape [*, N, ...]."""
    rows = []
    for where, what, pres in laws:
        batch = pres.batch_shape
        parts = (where.mean, where.variance, what.mean, what.variance, pres.logits.unsqueeze(-1))
        rows.append(torch.cat([part.expand(*batch, -1) for part in parts], -1))
    return torch.stack(rows, -2)


@pytest.mark.parametrize("batch", [(B,), (K, B)])
def test_object_by_object(batch: tuple[int, ...]) -> None:
    """But for the attention among them, objects are looked at one by one."""
    follow, objects = guide().propagation, some_objects(*batch)
    nn.init.normal_(follow.factor.entries, std=0.3)
    frame, memory = torch.rand(B, 1, 12, 16).double(), torch.randn(*batch, N, H).double()
    laws, after = follow.laws(frame, objects, memory)
    where_before, what_before, states = (value.unbind(-2) for value in (objects.where, objects.what, memory))
    tokens = []
    for where, what, state in zip(where_before, what_before, states, strict=True):
        proposed = follow.glimpse_encoder(frame, where + 0.1 * follow.proposal(state), follow.mask(state)).loc
        tokens.append(follow.embed(torch.cat([proposed, what, where, state], -1)))
    related = follow.relation(torch.stack(tokens, -2), hide_absent(objects.pres)).unbind(-2)
    for i, (law, h) in enumerate(zip(laws, related, strict=True)):
        change, scale = follow.where(torch.cat([h, where_before[i], states[i]], -1)).chunk(2, -1)
        loc = where_before[i] + change
        factor = (F.softplus(scale - 4) + 0.01).unsqueeze(-1) * follow.factor()
        where, what = torch.randn(*batch, 4).double(), torch.randn(*batch, D).double()
        expected = torch.distributions.MultivariateNormal(loc, scale_tril=factor).log_prob(where)
        torch.testing.assert_close(law.where.log_prob(where), expected)
        seen = follow.glimpse_encoder(frame, loc, follow.mask(states[i]))
        new = follow.temporal(torch.cat([h, loc, *seen], -1), states[i])
        torch.testing.assert_close(after[..., i, :], new)
        expected = follow.what(new, what_before[i], *seen)
        torch.testing.assert_close(law.what.log_prob(what), expected.log_prob(what))
        logits = follow.pres(torch.cat([h, new, expected.mean], -1)).squeeze(-1)
        torch.testing.assert_close(law.pres.logits, logits)


@pytest.mark.parametrize("batch", [(B,), (K, B)])
def test_permuting_objects_permutes_what_is_inferred(batch: tuple[int, ...]) -> None:
    follow, objects = guide().propagation, some_objects(*batch)
    frame, memory, order = torch.rand(B, 1, 12, 16).double(), torch.randn(*batch, N, H).double(), [2, 0, 1]
    laws, after = follow.laws(frame, objects, memory)
    fields = (field[..., order] if field.dim() == memory.dim() - 1 else field[..., order, :] for field in objects)
    permuted = Objects(*fields)
    other, other_after = follow.laws(frame, permuted, memory[..., order, :])
    torch.testing.assert_close(numbers(other), numbers(laws)[..., order, :])
    torch.testing.assert_close(other_after, after[..., order, :])


def test_objects_notice_each_other_if_they_are_there() -> None:
    follow, frame = guide().propagation, torch.rand(B, 1, 12, 16).double()
    objects, memory = some_objects(B), torch.randn(B, N, H).double()
    first, there = numbers(follow.laws(frame, objects, memory)[0]), objects.pres[:, 0] > 0
    moved = objects._replace(where=objects.where + torch.tensor([1.0, 0.0, 0.0]).double()[:, None])
    second = numbers(follow.laws(frame, moved, memory)[0])
    changed = (first[:, 1:] != second[:, 1:]).any(-1).all(-1)
    assert torch.equal(changed, there)
    assert there.any()
    assert not there.all()


@pytest.mark.parametrize("batch", [(B,), (K, B)])
@pytest.mark.parametrize("masked", [True, False])
def test_look_is_a_look_at_each(batch: tuple[int, ...], masked: bool) -> None:
    encoder, frame = guide().discovery.glimpse_encoder, torch.rand(B, 1, 12, 16).double()
    where, mask = torch.randn(*batch, N, 4).double(), torch.rand(*batch, N, 36).double() if masked else None
    seen = look(encoder, frame, where, mask)
    for i in range(N):
        one = encoder(frame, where[..., i, :], None if mask is None else mask[..., i, :])
        torch.testing.assert_close(seen.loc[..., i, :], one.loc)
        torch.testing.assert_close(seen.scale[..., i, :], one.scale)
