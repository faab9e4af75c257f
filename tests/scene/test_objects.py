# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Merging propagated and discovered objects against a slow loop; ids, memory and the slots left out."""

import itertools
import math
import re

import pytest
import torch
from torch import Tensor

from pyro_sqair.scene.objects import (
    Objects,
    SceneConfig,
    initial_state,
    merge,
    no_objects,
    pad_slots,
    stack_objects,
    trim_slots,
)
from pyro_sqair.scene.spatial import boxes

N, D, M = 4, 3, 2  # slots, size of `what`, size of memory


def random_objects(pres: Tensor, ids: Tensor | None = None) -> Objects:
    """Objects with random content in every slot, absent ones too; ids -1 where absent."""
    ids = torch.full(pres.shape, -1) if ids is None else torch.where(pres > 0, ids, -1)
    return Objects(pres, torch.randn(*pres.shape, 4), torch.randn(*pres.shape, D), ids)


def random_presence(*batch: int) -> tuple[Tensor, Tensor]:
    """Who was propagated, in any slots, and who was discovered, from the first slot on, within the room."""
    propagated = (torch.rand(*batch, N) < 0.5).float()
    room = N - propagated.sum(-1)
    number = (torch.rand(batch) * (room + 1)).floor()
    return propagated, (torch.arange(N) < number.unsqueeze(-1)).float()


def slow_merge(propagated, discovered, next_id, memory, fresh):
    """The scene of one sequence as a list of (where, what, id, memory), and the next id."""
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


def check_against_loop(propagated, discovered, next_id, memory, fresh, batch):
    """Merges at once and by the loop, element by element of the batch."""
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
        for i, (where, what, identity, remembered) in enumerate(scene):
            assert torch.equal(merged.where[i], where)
            assert torch.equal(merged.what[i], what)
            assert merged.id[i] == identity
            assert torch.equal(state.memory[b][i], remembered)
        rest = slice(len(scene), None)
        assert (merged.where[rest] == 0).all()
        assert (merged.what[rest] == 0).all()
        assert (merged.id[rest] == -1).all()


@pytest.mark.parametrize("batch", [(40,), (5, 8), (3, 2, 8)])
def test_merge_equals_loop(batch):
    before, new = random_presence(*batch)
    ids = torch.argsort(torch.rand(*batch, N), -1)
    check_against_loop(
        random_objects(before, ids),
        random_objects(new),
        torch.randint(N, 10, batch),
        torch.randn(*batch, N, M),
        torch.randn(M),
        batch,
    )


@pytest.mark.parametrize("particles", ["propagated", "discovered", "memory", "next_id"])
def test_merge_of_mixed_batch_shapes(particles):
    """Whatever has the particle dimension [K, B], the rest being [B], the scene has it."""
    wide, narrow = (5, 8), (8,)
    shapes = {name: wide if name == particles else narrow for name in ("propagated", "discovered")}
    batch = wide if particles in shapes else narrow
    if particles in ("memory", "next_id"):  # then presence has it as well: memory and ids follow from draws
        shapes, batch = dict.fromkeys(shapes, wide), wide
    before = (torch.rand(*shapes["propagated"], N) < 0.4).float()
    room = (N - before.sum(-1)).expand(batch)
    room = room if shapes["discovered"] == wide else room.reshape(-1, 8).amin(0)
    new = (torch.arange(N) < (torch.rand(room.shape) * (room + 1)).floor().unsqueeze(-1)).float()
    check_against_loop(
        random_objects(before, torch.arange(N).expand(before.shape)),
        random_objects(new),
        torch.full(wide if particles == "next_id" else narrow, N),
        torch.randn(*(wide if particles == "memory" else narrow), N, M),
        torch.randn(M),
        batch,
    )


@pytest.mark.parametrize("nobody", ["propagated", "discovered"])
def test_merge_when_no_slot_was_visited(nobody):
    """A phase in which every slot was closed leaves objects without a batch dimension."""
    batch = (5, 8)
    someone = random_objects((torch.arange(N) < torch.randint(0, N + 1, (*batch, 1))).float(), torch.arange(N))
    none = Objects(torch.zeros(N), torch.zeros(N, 4), torch.zeros(N, D), torch.full((N,), -1))
    pair = (none, someone._replace(id=torch.full((*batch, N), -1))) if nobody == "propagated" else (someone, none)
    check_against_loop(*pair, torch.full((8,), N), torch.randn(*batch, N, M), torch.randn(M), batch)


def test_merge_without_memory():
    before, new = random_presence(6)
    assert merge(random_objects(before), random_objects(new), torch.zeros(6).long()).memory is None


def test_new_objects_start_from_zero_memory_by_default():
    before, new = torch.zeros(2, N), torch.ones(2, N)
    state = merge(random_objects(before), random_objects(new), torch.zeros(2).long(), torch.randn(2, N, M))
    assert (state.memory == 0).all()


def test_merge_passes_gradients_of_present_objects_only():
    before, new = torch.tensor([[0.0, 1.0, 0.0, 1.0]]), torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    propagated, discovered = random_objects(before), random_objects(new)
    propagated.where.requires_grad_()
    discovered.what.requires_grad_()
    objects = merge(propagated, discovered, torch.zeros(1).long()).objects
    (objects.where.sum() + objects.what.sum()).backward()
    assert torch.equal(propagated.where.grad, before.unsqueeze(-1).expand(1, N, 4))
    assert torch.equal(discovered.what.grad, new.unsqueeze(-1).expand(1, N, D))


def test_ids_over_time_are_stable_and_never_reused():
    """An object is its `what`, which never changes here: over thirty frames, same `what`, same id."""
    batch = (3, 8)
    state = initial_state(8, SceneConfig(N, D), torch.empty(0), torch.zeros(M))
    owner: dict[tuple, float] = {}
    gone: set[tuple] = set()
    seen_again = 0
    for _ in range(30):
        survive = state.objects.pres * (torch.rand(*batch, N) < 0.6)
        propagated = Objects(
            survive,
            state.objects.where.expand(*batch, N, 4),
            state.objects.what.expand(*batch, N, D),
            torch.where(survive > 0, state.objects.id, -1),
        )
        new = (torch.arange(N) < (torch.rand(batch) * (N + 1 - survive.sum(-1))).floor().unsqueeze(-1)).float()
        state = merge(propagated, random_objects(new), state.next_id)
        present = set()
        for b in itertools.product(*map(range, batch)):
            ids = [i for i in state.objects.id[b].tolist() if i >= 0]
            assert len(ids) == len(set(ids)) == int(state.objects.num_present[b])
            for i, identity in enumerate(ids):
                key = (*b, identity)
                assert key not in gone
                signature = state.objects.what[b][i, 0].item()
                seen_again += key in owner
                assert owner.setdefault(key, signature) == signature
                present.add(key)
        gone |= owner.keys() - present
    assert len(set(owner.values())) == len(owner), "every object got an id of its own"
    assert seen_again > 100
    assert len(gone) > 100


class TestOccupied:
    @pytest.mark.parametrize(("most", "kept"), [(0, 1), (1, 1), (3, 3), (4, 4)])
    def test_last_slots_are_left_out(self, most, kept):
        number = torch.tensor([[0, most, 0], [0, 0, min(most, 1)]])
        objects = random_objects((torch.arange(N) < number.unsqueeze(-1)).float(), torch.arange(N))
        fewer = trim_slots(objects)
        assert fewer.pres.shape[-1] == kept
        assert fewer.pres.sum() == objects.pres.sum()
        dims = (-1, -2, -2, -1)
        for field, whole, dim in zip(fewer, objects, dims, strict=True):
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
        "sizes",
        [
            {"num_slots": 0},
            {"what_dim": 0},
            {"channels": 0},
            {"image_size": (50, 0)},
            {"glimpse_size": (-1, 20)},
        ],
    )
    def test_sizes_start_at_one(self, sizes):
        with pytest.raises(ValueError, match="expected sizes of at least 1, got"):
            SceneConfig(**sizes)

    @pytest.mark.parametrize("glimpse", [(20, 51), (51, 20)])
    def test_glimpse_fits_the_image(self, glimpse):
        with pytest.raises(ValueError, match=r"no larger than the image \(50, 50\), got \(\d+, \d+\)"):
            SceneConfig(glimpse_size=glimpse)

    def test_glimpse_may_be_the_image(self):
        assert SceneConfig(image_size=(7, 5), glimpse_size=(7, 5)).image_size == (7, 5)

    def test_the_usual_box_has_the_size_of_an_object(self):
        scene = SceneConfig(image_size=(40, 60), object_size=(10, 20))
        box = boxes(torch.tensor(scene.box), scene.image_size)
        torch.testing.assert_close(box, torch.tensor([20.0, 15.0, 20.0, 10.0]))
        assert SceneConfig().box is None

    @pytest.mark.parametrize("size", [(0, 10), (10, 50), (50, 10), (-1, 5)])
    def test_objects_are_smaller_than_the_image(self, size):
        with pytest.raises(ValueError, match=r"expected objects smaller than the image \(50, 50\), got \("):
            SceneConfig(object_size=size)

    @pytest.mark.parametrize("std", [0.0, -1.0, math.inf, math.nan])
    def test_object_sizes_vary(self, std):
        with pytest.raises(ValueError, match=f"standard deviation of the object size above 0, got {std}"):
            SceneConfig(object_size=(10, 10), object_size_std=std)

    @pytest.mark.parametrize("name", ["image_size", "glimpse_size", "object_size"])
    @pytest.mark.parametrize("size", [(10,), (10, 10, 10), 10])
    def test_sizes_are_pairs(self, name, size):
        with pytest.raises(ValueError, match=rf"expected {name} to be \(height, width\), got {re.escape(repr(size))}"):
            SceneConfig(**{name: size})
