# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Attention against PyTorch's own, with other weights in the same places; and what is hidden has no effect."""

import pytest
import torch
from torch import nn

from pyro_sqair.attention import HIDDEN, Attention, SelfAttentionBlock, hide_absent

S, HEADS, Q, M, B, K = 8, 2, 3, 5, 4, 2


def reference(attention: Attention) -> nn.MultiheadAttention:
    """PyTorch's attention with the same weights."""
    other = nn.MultiheadAttention(S, HEADS, batch_first=True, dtype=torch.float64)
    parts = attention.query, attention.key, attention.value
    with torch.no_grad():
        other.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        other.in_proj_bias.copy_(torch.cat([attention.query.bias, torch.zeros(S).double(), attention.value.bias]))
        other.out_proj.load_state_dict(attention.output.state_dict())
    return other


@pytest.mark.parametrize("batch", [(B,), (K, B)])
@pytest.mark.parametrize("biased", [True, False])
def test_against_pytorch(batch: tuple[int, ...], biased: bool) -> None:
    attention = Attention(S, HEADS).double()
    nn.init.normal_(attention.value.bias)
    x, context = torch.randn(*batch, Q, S).double(), torch.randn(B, M, S).double()  # the context without particles
    bias = torch.randn(*batch, HEADS, Q, M).double() if biased else None
    result = attention(x, attention.project(context), bias)
    mask = None if bias is None else bias.reshape(-1, Q, M)
    flat = context.expand(*batch, M, S).reshape(-1, M, S)
    expected, _ = reference(attention)(x.reshape(-1, Q, S), flat, flat, attn_mask=mask)
    torch.testing.assert_close(result, expected.reshape(*batch, Q, S))


def test_hidden_elements_have_no_effect() -> None:
    block = SelfAttentionBlock(S, HEADS).double()
    pres = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0]).double()
    x = torch.randn(B, M, S).double()
    other = torch.where(pres.unsqueeze(-1) > 0, x, torch.randn_like(x))
    bias = hide_absent(pres)
    assert bias.dtype == torch.float64
    there = pres > 0
    assert torch.equal(block(x, bias)[:, there], block(other, bias)[:, there])
    assert not torch.allclose(block(x)[:, there], block(other)[:, there])


def test_nobody_there_is_no_reason_for_nan() -> None:
    block = SelfAttentionBlock(S, HEADS)
    x = torch.randn(B, M, S, requires_grad=True)
    result = block(x, hide_absent(torch.zeros(B, M)))
    result.sum().backward()
    assert result.isfinite().all()
    assert x.grad.isfinite().all()
    assert torch.tensor(HIDDEN).exp() == 0


def test_block_is_equivariant() -> None:
    block = SelfAttentionBlock(S, HEADS).double()
    x, pres, order = torch.randn(B, M, S).double(), torch.randint(0, 2, (B, M)).double(), torch.randperm(M)
    permuted = block(x[:, order], hide_absent(pres[:, order]))
    torch.testing.assert_close(permuted, block(x, hide_absent(pres))[:, order])


def test_heads_must_divide_the_size() -> None:
    with pytest.raises(ValueError, match="expected a number of heads that divides the size 8, got 3"):
        Attention(8, 3)
