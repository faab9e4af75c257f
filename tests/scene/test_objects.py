# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The merge of propagated and discovered objects equals a loop; ids, memory, trimmed slots and sizes."""

import itertools
import math
import re

import pytest
import torch
from torch import Tensor

from pyro_sqair.scene.objects import (
    Objects,
    SceneConfig,
    batch_shape,
    initial_state,
    merge,
    no_objects,
    pad_slots,
    stack_objects,
    trim_slots,
)
from pyro_sqair.scene.spatial import boxes

N, D, M = 4, 3, 2  # slots, size of `what`, size of the memory


def random_objects(pres: Tensor, ids: Tensor | None = None) -> Objects:
    """Objects with random values in every slot, absent ones too; ids are -1 where absent."""
    ids = torch.full(pres.shape, -1) if ids is None else torch.where(pres > 0, ids, -1)
    return Objects(pres, torch.randn(*pres.shape, 4), torch.randn(*pres.shape, D), ids)


def first_slots(number: Tensor) -> Tensor:
    """Presence [*, N] of `number` [*] objects in the first slots."""
    return (torch.arange(N) < number.unsqueeze(-1)).float()


def random_presence(*batch: int) -> tuple[Tensor, Tensor]:
    """Presence of propagated objects in any slots, and of discovered ones in the first slots, within the room."""
    propagated = (torch.rand(*batch, N) < 0.5).float()
    number = (torch.rand(batch) * (N + 1 - propagated.sum(-1))).floor()
    return propagated, first_slots(number)


def slow_merge(propagated, discovered, next_id, memory, fresh):
    """The objects of one sequence as a list of (where, what, id, memory), and the next id."""
    scene = []
    for i in range(N):
        if propagated.pres[i]:
            scene.append((propagated.where[i], propagated.what[i], int(propagated.id[i]), memory[i]))
    next_id = int(next_id)
    for i in range(N):
        if discovered.pres[i]:
            scene.append((discovered.where[i], discovered.what[i], next_id, fresh))
            next_id += 1
    return scene, next_id


def check_against_loop(propagated, discovered, next_id, memory, batch):
    """Compares `merge` with the loop for every element of the batch."""
    fresh = torch.randn(M)
    state = merge(propagated, discovered, next_id, memory, fresh)
    assert state.objects.pres.shape == state.objects.id.shape == (*batch, N)
    assert state.objects.where.shape == (*batch, N, 4)
    assert state.objects.what.shape == (*batch, N, D)
    assert state.memory.shape == (*batch, N, M)

    def at(objects: Objects, b: tuple[int, ...]) -> Objects:
        events = (1, 2, 2, 1)
        fields = (f.expand(*batch, *f.shape[-e:])[b] for f, e in zip(objects, events, strict=True))
        return Objects(*fields)

    for b in itertools.product(*map(range, batch)):
        scene, expected_next = slow_merge(
            at(propagated, b), at(discovered, b), next_id.expand(batch)[b], memory.expand(*batch, N, M)[b], fresh
        )
        merged = at(state.objects, b)
        assert state.next_id.expand(batch)[b] == expected_next
        assert merged.pres.tolist() == [1.0] * len(scene) + [0.0] * (N - len(scene))
        for i, (where, what, identity, object_memory) in enumerate(scene):
            assert torch.equal(merged.where[i], where)
            assert torch.equal(merged.what[i], what)
            assert merged.id[i] == identity
            assert torch.equal(state.memory[b][i], object_memory)
        absent = slice(len(scene), None)
        assert (merged.where[absent] == 0).all()
        assert (merged.what[absent] == 0).all()
        assert (merged.id[absent] == -1).all()


class TestMerge:
    @pytest.mark.parametrize("batch", [(40,), (5, 8), (3, 2, 8)])
    def test_equals_loop(self, batch):
        before, new = random_presence(*batch)
        propagated = random_objects(before, torch.argsort(torch.rand(*batch, N), -1))
        next_id, memory = torch.randint(N, 10, batch), torch.randn(*batch, N, M)
        check_against_loop(propagated, random_objects(new), next_id, memory, batch)

    @pytest.mark.parametrize("wide", ["propagated", "discovered", "memory", "next_id"])
    def test_mixed_batch_shapes(self, wide):
        """Some inputs have the particle dimension [K, B], the others [B]; the result has it."""
        # memory and ids follow from draws: where they have the dimension, presence has it as well
        all_wide = {wide} if wide in ("propagated", "discovered") else {wide, "propagated", "discovered"}
        batch = {
            name: (5, 8) if name in all_wide else (8,) for name in ("propagated", "discovered", "memory", "next_id")
        }
        before = (torch.rand(*batch["propagated"], N) < 0.5).float()
        before = before * (before.cumsum(-1) <= 2)
        propagated = random_objects(before, torch.arange(N).expand(before.shape))
        discovered = random_objects(first_slots(torch.randint(0, 3, batch["discovered"])))
        next_id, memory = torch.full(batch["next_id"], N), torch.randn(*batch["memory"], N, M)
        check_against_loop(propagated, discovered, next_id, memory, (5, 8))

    @pytest.mark.parametrize("empty", ["propagated", "discovered"])
    def test_a_phase_without_visited_slots(self, empty):
        """Its objects have no batch dimension."""
        batch = (5, 8)
        some = random_objects(first_slots(torch.randint(0, N + 1, batch)), torch.arange(N))
        none = Objects(torch.zeros(N), torch.zeros(N, 4), torch.zeros(N, D), torch.full((N,), -1))
        pair = (none, some._replace(id=torch.full((*batch, N), -1))) if empty == "propagated" else (some, none)
        check_against_loop(*pair, torch.full((8,), N), torch.randn(*batch, N, M), batch)

    def test_default_memory(self):
        """None without memory; zeros for new objects without an initial memory."""
        before, new = torch.zeros(2, N), torch.ones(2, N)
        next_id = torch.zeros(2).long()
        assert merge(random_objects(before), random_objects(new), next_id).memory is None
        state = merge(random_objects(before), random_objects(new), next_id, torch.randn(2, N, M))
        assert (state.memory == 0).all()

    def test_gradients_of_present_objects_only(self):
        before, new = torch.tensor([[0.0, 1.0, 0.0, 1.0]]), torch.tensor([[1.0, 0.0, 0.0, 0.0]])
        propagated, discovered = random_objects(before), random_objects(new)
        propagated.where.requires_grad_()
        discovered.what.requires_grad_()
        objects = merge(propagated, discovered, torch.zeros(1).long()).objects
        (objects.where.sum() + objects.what.sum()).backward()
        assert torch.equal(propagated.where.grad, before.unsqueeze(-1).expand(1, N, 4))
        assert torch.equal(discovered.what.grad, new.unsqueeze(-1).expand(1, N, D))


class TestTrimSlots:
    @pytest.mark.parametrize(("most", "kept"), [(0, 1), (1, 1), (3, 3), (4, 4)])
    def test_last_slots_are_dropped(self, most, kept):
        number = torch.tensor([[0, most, 0], [0, 0, min(most, 1)]])
        objects = random_objects(first_slots(number), torch.arange(N))
        trimmed = trim_slots(objects)
        assert trimmed.pres.shape[-1] == kept
        assert trimmed.pres.sum() == objects.pres.sum()
        for field, whole, dim in zip(trimmed, objects, (-1, -2, -2, -1), strict=True):
            assert torch.equal(field, whole.narrow(dim, 0, kept))

    def test_pad_slots(self):
        memory = torch.randn(3, 2, 2, M)
        padded = pad_slots(memory, N)
        assert padded.shape == (3, 2, N, M)
        assert torch.equal(padded[..., :2, :], memory)
        assert (padded[..., 2:, :] == 0).all()
        assert torch.equal(pad_slots(padded, N), padded)


def test_stack_objects_broadcasts():
    narrow, wide = random_objects(torch.ones(8, N)), random_objects(torch.ones(5, 8, N))
    stacked = stack_objects([narrow, wide, narrow])
    for field, a, b in zip(stacked, narrow, wide, strict=True):
        assert field.shape == (3, *b.shape)
        assert torch.equal(field[0], a.expand_as(b))
        assert torch.equal(field[1], b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_initial_state_is_empty(dtype):
    scene = SceneConfig(num_slots=N, what_dim=D)
    memory = torch.randn(M)
    state = initial_state(5, scene, torch.empty(0, dtype=dtype), memory)
    objects = no_objects(5, scene, torch.empty(0, dtype=dtype))
    assert all(torch.equal(a, b) for a, b in zip(state.objects, objects, strict=True))
    assert {objects.pres.dtype, objects.where.dtype, objects.what.dtype} == {dtype}
    assert objects.id.dtype == state.next_id.dtype == torch.int64
    assert (objects.num_present == 0).all()
    assert (objects.id == -1).all()
    assert objects.where.shape == (5, N, 4)
    assert objects.what.shape == (5, N, D)
    assert torch.equal(state.memory, memory.expand(5, N, M))
    assert initial_state(5, scene, torch.empty(0)).memory is None


class TestSceneConfig:
    @pytest.mark.parametrize(
        ("sizes", "message"),
        [
            ({"num_slots": 0}, "expected sizes of at least 1, got"),
            ({"what_dim": 0}, "expected sizes of at least 1, got"),
            ({"channels": 0}, "expected sizes of at least 1, got"),
            ({"image_size": (50, 0)}, "expected sizes of at least 1, got"),
            ({"glimpse_size": (-1, 20)}, "expected sizes of at least 1, got"),
            ({"glimpse_size": (20, 51)}, r"no larger than the image \(50, 50\), got \(20, 51\)"),
            ({"glimpse_size": (51, 20)}, r"no larger than the image \(50, 50\), got \(51, 20\)"),
            (
                {"num_slots": 10**30},
                "expected num_slots and what_dim of at most 4096, got 1000",
            ),
            ({"what_dim": 4097}, "expected num_slots and what_dim of at most 4096, got 3 and 4097"),
            *(
                ({"object_size": size}, r"at least a pixel and smaller than the image \(50, 50\), got \(")
                for size in ((0, 10), (10, 50), (50, 10), (-1, 5), (math.nan, 5), (5, 1e-300))
            ),
            *(
                ({"object_size_std": std}, rf"expected object_size_std from 1e-4 to 10, got {re.escape(str(std))}")
                for std in (0.0, -1.0, 1e-320, 1e30, math.inf, math.nan)
            ),
            *(
                ({name: size}, rf"expected {name} to be \(height, width\), got {re.escape(repr(size))}")
                for name in ("image_size", "glimpse_size", "object_size")
                for size in ((10,), (10, 10, 10), 10)
            ),
        ],
    )
    def test_wrong_sizes(self, sizes, message):
        with pytest.raises(ValueError, match=message):
            SceneConfig(**sizes)

    def test_glimpse_may_be_as_large_as_the_image(self):
        assert SceneConfig(image_size=(7, 5), glimpse_size=(7, 5)).image_size == (7, 5)

    def test_box_has_the_size_of_an_object(self):
        scene = SceneConfig(image_size=(40, 60), object_size=(10, 20))
        box = boxes(torch.tensor(scene.box), scene.image_size)
        torch.testing.assert_close(box, torch.tensor([20.0, 15.0, 20.0, 10.0]))
        assert SceneConfig().box is None


SHAPES = [torch.Size(s) for s in [(), (1,), (3,), (2, 3), (2, 1), (1, 3), (5, 2, 3), (5, 1, 1)]]


@pytest.mark.parametrize("shapes", [*itertools.combinations_with_replacement(SHAPES, 2), SHAPES, SHAPES[::-1]])
def test_batch_shape_equals_broadcast_shapes(shapes):
    result = batch_shape(*shapes)
    assert result == torch.broadcast_shapes(*shapes)
    assert isinstance(result, torch.Size)


@pytest.mark.parametrize("shapes", [[(3,), (2,)], [(2, 3), (3, 3)], [(2, 3), (2,)]])
def test_batch_shape_of_shapes_that_do_not_broadcast(shapes):
    with pytest.raises(RuntimeError):
        batch_shape(*map(torch.Size, shapes))
