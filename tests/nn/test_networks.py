# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The networks compared with those of PyTorch, for every leading batch shape."""

import pytest
import torch
from torch import nn

from pyro_sqair.nn.networks import GRU, MLP, SetEncoder, VanillaRNN, join, positive_scale
from pyro_sqair.scene.objects import Objects

BATCHES = [(), (3,), (2, 3), (4, 2, 3)]


def num_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_join_broadcasts_batch_shapes():
    a, b, c = torch.randn(4, 2, 3, 5), torch.randn(3, 1), torch.randn(2)
    joined = join(a, b, c)
    assert joined.shape == (4, 2, 3, 8)
    assert torch.equal(joined[..., :5], a)
    assert torch.equal(joined[..., 5:6], b.expand(4, 2, 3, 1))
    assert torch.equal(joined[..., 6:], c.expand(4, 2, 3, 2))


class TestMLP:
    def test_layers(self):
        mlp = MLP(5, [7, 6], 4)
        first, second, last = mlp[0], mlp[2], mlp[4]
        x = torch.randn(2, 3, 5)
        expected = last(nn.functional.elu(second(nn.functional.elu(first(x)))))
        assert torch.equal(mlp(x), expected)
        assert num_parameters(mlp) == 5 * 7 + 7 + 7 * 6 + 6 + 6 * 4 + 4

    def test_last_hidden_layer_as_output(self):
        mlp = MLP(5, [7])
        x = torch.randn(3, 5)
        assert torch.equal(mlp(x), nn.functional.elu(mlp[0](x)))

    def test_output_bias(self):
        assert (MLP(5, [7], 4, output_bias=3.0)[-1].bias == 3).all()


class TestVanillaRNN:
    @pytest.mark.parametrize("batch", BATCHES)
    def test_equals_rnn_cell(self, batch):
        ours, cell = VanillaRNN([2, 3], 4, 6).double(), nn.RNNCell(9, 6, dtype=torch.float64)
        weights = (ours.input.weight, ours.hidden.weight, ours.input.bias, ours.hidden.bias)
        cell.load_state_dict(dict(zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), weights, strict=True)))
        a, b, x, hidden = (torch.randn(*batch, size, dtype=torch.float64) for size in (2, 3, 4, 6))
        expected = cell(torch.cat([a, b, x], -1).reshape(-1, 9), hidden.reshape(-1, 6)).reshape(*batch, 6)
        torch.testing.assert_close(ours(ours.context(a, b), x, hidden), expected)

    def test_context_at_a_smaller_batch_shape(self):
        rnn = VanillaRNN([2, 3], 4, 6)
        a, b, x = torch.randn(5, 2), torch.randn(3, 5, 3), torch.randn(3, 5, 4)
        result = rnn(rnn.context(a, b), x, rnn.initial)
        expected = rnn(rnn.context(a.expand(3, 5, 2), b), x, rnn.initial.expand(3, 5, 6))
        torch.testing.assert_close(result, expected)

    def test_initial_state_is_a_parameter(self):
        rnn = VanillaRNN([2], 4, 6)
        assert isinstance(rnn.initial, nn.Parameter)
        assert (rnn.initial == 0).all()
        with pytest.raises(ValueError, match="zip"):  # of a wrong number of parts
            rnn.context(torch.zeros(2), torch.zeros(2))


def test_positive_scale():
    x = torch.tensor([-1e4, -3.0, 0.0, 3.0, 1e4]).double()
    torch.testing.assert_close(positive_scale(x), x.clamp(min=0) + (-x.abs()).exp().log1p() + 0.01)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("narrow", ["x", "hidden", None])
def test_gru_equals_loop_over_cells(batch, narrow):
    gru = GRU(5, 6)
    x = torch.randn(*(batch[1:] if narrow == "x" else batch), 5)
    hidden = torch.randn(*(batch[1:] if narrow == "hidden" else batch), 6)
    result = gru(x, hidden)
    assert result.shape == (*batch, 6)
    wide_x, wide_hidden = x.expand(*batch, 5).reshape(-1, 5), hidden.expand(*batch, 6).reshape(-1, 6)
    expected = [gru.cell(a[None], b[None])[0] for a, b in zip(wide_x, wide_hidden, strict=True)]
    torch.testing.assert_close(result.reshape(-1, 6), torch.stack(expected))


class TestSetEncoder:
    def objects(self, *batch: int) -> Objects:
        # Propagated objects stay in their slots, so present objects may follow absent ones.
        pres = (torch.rand(*batch, 4) < 0.5).float()
        return Objects(pres, torch.randn(*batch, 4, 4), torch.randn(*batch, 4, 3), torch.arange(4).expand(*batch, 4))

    @pytest.mark.parametrize("batch", BATCHES)
    def test_sum_over_present_objects(self, batch):
        encoder, objects = SetEncoder(3, 8), self.objects(*batch)
        expected = torch.zeros(*batch, 8)
        for i in range(4):
            features = encoder.mlp(torch.cat([objects.what[..., i, :], objects.where[..., i, :]], -1))
            expected = expected + torch.where(objects.pres[..., i, None] > 0, features, 0.0)
        result = encoder(objects)
        assert result.shape == (*batch, encoder.output_size) == (*batch, 8)
        torch.testing.assert_close(result, expected)
