# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Relational modules compared with loops over objects, and their equivariance."""

import pytest
import torch
from torch import Tensor

from pyro_sqair.experiments import SQAIRSystem
from pyro_sqair.infer import VIMCO, check_sites
from pyro_sqair.nn.relations import InteractionConfig, InteractionNetwork, MemoryCoreConfig, RelationalMemoryCore
from pyro_sqair.scene.objects import Objects, SceneConfig
from pyro_sqair.scene.program import with_slots
from pyro_sqair.tracking.rollout import generate

D = 3
CONFIGS = [InteractionConfig(), MemoryCoreConfig()]


@pytest.fixture(params=CONFIGS)
def module(request: pytest.FixtureRequest) -> InteractionNetwork | RelationalMemoryCore:
    return request.param.build(D).double()


def objects(num: int, *batch: int) -> Objects:
    """Objects, some of them absent; the values of absent ones must not matter."""
    pres = (torch.rand(*batch, num) < 0.7).double()
    where, what = torch.randn(*batch, num, 4).double(), torch.randn(*batch, num, D).double()
    return Objects(pres, where, what, torch.arange(num).expand(*batch, num))


def state_for(module, scene: Objects) -> Tensor:
    return torch.randn(*scene.pres.shape, module.state_size).double()


def permuted(scene: Objects, order: Tensor) -> Objects:
    return Objects(*(field.index_select(scene.pres.dim() - 1, order) for field in scene))


@pytest.mark.parametrize("batch", [(), (5,), (2, 5)])
def test_equivariance(module, batch):
    scene = objects(4, *batch)
    state, order = state_for(module, scene), torch.tensor([2, 0, 3, 1])
    effects, after = module(scene, state)
    assert effects.shape == (*batch, 4, module.size) and after.shape == state.shape
    moved, moved_state = module(permuted(scene, order), state[..., order, :])
    torch.testing.assert_close(moved, effects[..., order, :])
    torch.testing.assert_close(moved_state, after[..., order, :])


def test_absent_objects_have_no_effect(module):
    scene = objects(4, 50)
    state = state_for(module, scene)
    effects, after = module(scene, state)
    absent = scene.pres.unsqueeze(-1) == 0
    noise = [torch.where(absent, 9.0, field) for field in (scene.where, scene.what)]
    other, other_after = module(scene._replace(where=noise[0], what=noise[1]), torch.where(absent, 5.0, state))
    present = ~absent.squeeze(-1)
    torch.testing.assert_close(other[present], effects[present])
    torch.testing.assert_close(other_after[present], after[present])
    assert effects.isfinite().all()


def test_present_objects_have_an_effect(module):
    """Each object's effect depends on every other present object, for any number of objects."""
    for num in (2, 4, 8):
        scene = objects(num)._replace(pres=torch.ones(num).double())
        what = scene.what.clone().requires_grad_()
        effects, _ = module(scene._replace(what=what), torch.zeros(num, module.state_size).double())
        for k in range(num):
            (gradient,) = torch.autograd.grad(effects[k].sum(), what, retain_graph=True)
            assert (gradient.abs().sum(-1)[torch.arange(num) != k] > 0).all()


def test_interaction_network():
    net, scene = InteractionNetwork(D).double(), objects(4, 7)
    effects, _ = net(scene, torch.zeros(7, 4, 0).double())
    z = torch.cat([scene.what, scene.where, scene.pres.unsqueeze(-1)], -1)
    for b in range(7):
        for k in range(4):
            expected = torch.zeros(net.size).double()
            for i in range(4):
                if i != k and scene.pres[b, i] > 0:
                    xi = net.edge(torch.cat([net.embed(z[b, k]), net.embed(z[b, i])]))
                    expected = expected + torch.sigmoid(net.attention(xi)) * net.effect(xi)
            torch.testing.assert_close(effects[b, k], expected)


def test_memory_core():
    """The row of each present object, computed head by head."""
    core, scene = RelationalMemoryCore(D, num_heads=2, head_size=3).double(), objects(3, 1)
    scene = scene._replace(pres=torch.tensor([[1.0, 0.0, 1.0]]).double())
    state = state_for(core, scene)
    _, after = core(scene, state)
    z = torch.cat([scene.what, scene.where, scene.pres.unsqueeze(-1)], -1)[0]
    rows = torch.cat([state[0], core.embed(z)])
    query, key, value = (part.reshape(6, 2, 3) for part in core.projected(core.project(rows)).chunk(3, -1))
    for k in (0, 2):
        heads = []
        for h in range(2):
            present = [0, 2, 3, 5]  # rows and inputs of the two present objects
            scores = torch.stack([query[k, h] @ key[i, h] for i in present]) / 3**0.5
            heads.append(sum(w * value[i, h] for w, i in zip(scores.softmax(0), present, strict=True)))
        memory = core.attended(state[0, k] + torch.cat(heads))
        memory = core.processed(memory + core.mlp(memory))
        gates = core.input_gates(core.embed(z[k])) + core.memory_gates(state[0, k].tanh())
        write, keep = gates.chunk(2)
        expected = write.sigmoid() * memory.tanh() + (keep + 1).sigmoid() * state[0, k]
        torch.testing.assert_close(after[0, k], expected)


class TestRSQAIR:
    """Relations inside the prior and the guide (Stanić & Schmidhuber 2019, Eqs. 3-4)."""

    @pytest.mark.parametrize("relations", CONFIGS)
    def test_without_effects_it_is_sqair(self, relations):
        """If the weights of effects are zero, R-SQAIR has the bound and the gradients of SQAIR."""
        scene = SceneConfig(2, D, image_size=(12, 12), glimpse_size=(6, 6))
        frames = torch.rand(4, 3, 1, 12, 12).double()
        plain, related = (SQAIRSystem(16, relations=r).programs(scene) for r in (None, relations))
        effect, latent = related[1].propagation.relations.size, D + 4 + 1
        # The layers with effects among their inputs, and the first column of these; SQAIR has all other columns.
        starts = {
            "propagation_prior.gru.cell.weight_ih": 4 + D,
            "propagation.relation.input.weight": D + latent,
            "propagation.temporal.cell.weight_ih": 16 + 4 + 2 * D,
        }
        for ours, theirs in zip(plain, related, strict=True):
            weights, own = dict(theirs.named_parameters()), dict(ours.named_parameters())
            assert own.keys() == {name for name in weights if "relations" not in name}
            with torch.no_grad():
                for name, value in own.items():
                    if start := starts.get(name):
                        value = torch.cat([value[:, :start], value.new_zeros(len(value), effect), value[:, start:]], 1)
                    weights[name].copy_(value)
        results = []
        for pair in (plain, related):
            objective = VIMCO(3)(*(program.double() for program in pair))
            torch.manual_seed(2)
            loss = objective(frames)
            loss.backward()
            results.append((loss, {n: p.grad for n, p in objective.named_parameters() if p.grad is not None}))
        (loss, gradients), (other, others) = results
        torch.testing.assert_close(loss, other, rtol=1e-12, atol=0)
        same = [name for name in gradients if name.split(".", 1)[1] not in starts]
        assert len(same) == len(gradients) - 3 > 50
        for name in same:
            torch.testing.assert_close(gradients[name], others[name], rtol=1e-8, atol=1e-10)

    @pytest.mark.parametrize("relations", CONFIGS)
    def test_trains_with_four_slots_and_runs_with_eight(self, relations):
        scene = SceneConfig(4, D, image_size=(12, 12), glimpse_size=(6, 6))
        frames = torch.rand(3, 2, 1, 12, 12)
        model, guide = SQAIRSystem(16, relations=relations).programs(scene)
        relations = guide.propagation.relations
        check_sites(model, guide, frames)
        VIMCO(2)(model, guide)(frames).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in relations.parameters())
        assert any(p.grad.abs().sum() > 0 for p in relations.parameters())

        model, guide = with_slots(8, model, guide)
        assert model.propagation_prior.relations is guide.propagation.relations is not relations
        assert model.scene.num_slots == guide.scene.num_slots == 8
        check_sites(model, guide, frames)
        VIMCO(2)(model, guide)(frames)
        rollout = generate(model, frames, 3, torch.tensor([8, 7]))
        assert rollout.objects.pres.shape == (3, 2, 8)
        assert rollout.objects.pres[0].sum(-1).tolist() == [8, 7]
