# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The online filter keeps ids when another particle is shown, and weighs the presence of objects over particles."""

from __future__ import annotations

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_sqair.scene.objects import Objects, SceneConfig, State, merge
from pyro_sqair.scene.program import Program
from pyro_sqair.scene.spatial import where_from_boxes
from pyro_sqair.tracking.filter import Filter, _continue_ids, _match

SCENE = SceneConfig(num_slots=3, what_dim=2, image_size=(12, 14), glimpse_size=(6, 6))
LEFT, RIGHT, MIDDLE = [1.0, 4.0, 4.0, 4.0], [9.0, 4.0, 4.0, 4.0], [5.0, 7.0, 3.0, 3.0]


class Scripted(Program):
    """Two particles: 0 finds the left object first, 1 finds the right one first and, in frame 2, one in the middle.

    A bright frame favours particle 0, a dark one particle 1, `strength[t]` nats in frame t.
    """

    def __init__(self, is_model: bool, strength: list[float]) -> None:
        super().__init__(SCENE)
        self.is_model = is_model
        self.strength = strength

    def step(self, t: int, state: State, frame: Tensor | None = None) -> State:
        assert frame is not None
        particle = pyro.sample(f"particle_{t}", dist.Delta(torch.tensor([[0.0], [1.0]])))
        if self.is_model:
            favoured = (frame.mean((-3, -2, -1)) < 0.5).float()
            pyro.factor(f"image_{t}", self.strength[t] * (particle == favoured))
        new = [[LEFT, RIGHT], [RIGHT, LEFT]] if t == 0 else [[MIDDLE], [MIDDLE]]
        where = where_from_boxes(torch.tensor(new), SCENE.image_size)[:, None].expand(2, particle.shape[1], -1, 4)
        pres = torch.ones(where.shape[:-1]) if t == 0 else (particle * (t == 2)).unsqueeze(-1)
        found = Objects(pres, where, torch.zeros(*pres.shape, 2), torch.full(pres.shape, -1))
        after = merge(state.objects, found, state.next_id)
        return after._replace(image=torch.zeros(*particle.shape, 1, 12, 14) if self.is_model else None)


def scripted_filter(strength: list[float]) -> Filter:
    return Filter(Scripted(True, strength), Scripted(False, strength), 2, threshold=0)


def test_ids_stay_when_another_particle_is_shown():
    """In the first video the particle shown changes; the second video of the batch always shows particle 0."""
    filter = scripted_filter([30.0 * 2**t for t in range(6)])  # each frame outweighs all earlier ones
    ids_by_left: list[list[dict[int, int]]] = []  # of each frame and video: left edge -> id
    for particle in [0, 1, 0, 1, 1, 0]:
        frame = torch.stack([torch.full((1, 12, 14), value) for value in (0.9 - 0.8 * particle, 0.9)])
        tracks = filter.update(frame)
        ids_by_left.append([])
        for lefts, ids in zip(tracks.boxes[..., 0], tracks.ids, strict=True):
            ids_by_left[-1].append({round(float(x)): int(i) for x, i in zip(lefts, ids, strict=True) if i >= 0})
        torch.testing.assert_close(tracks.presence[0, :2], torch.ones(2))
    two, three = {1: 0, 9: 1}, {1: 0, 9: 1, 5: 2}
    assert [first for first, _ in ids_by_left] == [two, two, two, three, three, two]
    assert all(second == two for _, second in ids_by_left)


def test_ids_of_a_single_particle_are_its_own(programs, frames):
    """Whatever the overlap; with rounding the overlap of a box with itself can be below 1."""
    filter = Filter(*programs, num_particles=1, min_overlap=1.0)
    for frame in frames:
        ids = filter.update(frame).ids
        assert torch.equal(ids, filter._state.particles.model_state.objects.id[0])
    assert ids.max() >= 2


def test_presence_is_the_weight_of_the_particles_that_agree():
    """Particle 1, which alone has the third object, is favoured by 0.4 nats per frame."""
    filter = scripted_filter([0.4] * 3)
    for _ in range(3):
        tracks = filter.update(torch.zeros(1, 12, 14))
    weight = 1 / (1 + math.exp(-1.2))
    torch.testing.assert_close(tracks.presence, torch.tensor([1.0, 1.0, weight]))
    torch.testing.assert_close(tracks.count_probability, torch.tensor([0.0, 0.0, 1 - weight, weight]))
    assert tracks.effective_sample_size == pytest.approx(1 / (weight**2 + (1 - weight) ** 2), rel=1e-5)


def test_matching_has_the_largest_total_overlap():
    """Against all permutations; pairs below the minimum overlap are not matched."""
    overlap = torch.rand(50, 4, 4) * (torch.rand(50, 4, 4) < 0.7)
    matched = _match(overlap, 0.2)
    assert (matched.sum(-1) <= 1).all() and (matched.sum(-2) <= 1).all()
    assert (overlap[matched] >= 0.2).all()
    allowed = overlap * (overlap >= 0.2)
    rows = torch.arange(4)
    best = torch.stack([allowed[:, rows, list(p)].sum(-1) for p in itertools.permutations(range(4))]).amax(0)
    torch.testing.assert_close((overlap * matched).sum((-2, -1)), best)


def test_ids_continue_within_a_particle():
    track_ids, next_track_id = _continue_ids(
        old=torch.tensor([[0, 1, 2], [3, -1, -1]]),
        old_track_ids=torch.tensor([[4, -1, 5], [0, -1, -1]]),
        new=torch.tensor([[0, 1, 7], [4, 3, -1]]),
        next_track_id=torch.tensor([7, 1]),
    )
    assert track_ids.tolist() == [[4, 7, 8], [1, 0, -1]]
    assert next_track_id.tolist() == [9, 2]
