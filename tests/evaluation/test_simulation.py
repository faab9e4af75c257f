# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Simulation against sums written out, and against motion that is known."""

import math

import pytest
import torch
from torch import Tensor

from pyro_sqair.data import BouncingBalls, four_balls, held_out, only_visible
from pyro_sqair.evaluation import rollout_error, simulation_likelihood
from pyro_sqair.scene.objects import Objects
from pyro_sqair.scene.spatial import where_from_boxes
from pyro_sqair.tracking.rollout import Rollout

T, B, SIDE = 5, 2, 20


class TestLikelihood:
    def test_is_the_sum_over_pixels(self):
        frames, image = torch.rand(T, B, 3, 4, 6), torch.rand(T, B, 3, 4, 6)
        collisions = torch.rand(T, B, 4, 6) < 0.3
        collisions[3, 1] = False
        found = simulation_likelihood(image, frames, collisions, 2, 0.4)
        law = torch.distributions.Normal(image.double(), 0.4)
        data, relational, hits = [], [], 0
        for t in range(2, T):
            for b in range(B):
                log_prob = law.log_prob(frames.double())[t, b].sum(0)
                data.append(log_prob.sum())
                relational.append(sum(log_prob[y, x] for y, x in collisions[t, b].nonzero().tolist()) + 0.0)
                hits += bool(collisions[t, b].any())
        assert found.data == pytest.approx(float(sum(data) / len(data)))
        assert found.relational == pytest.approx(float(sum(relational) / len(relational)))
        assert found.colliding == pytest.approx(float(sum(relational) / hits))

    def test_a_perfect_prediction(self):
        frames = torch.rand(T, B, 1, 4, 6)
        nothing = torch.zeros(T, B, 4, 6, dtype=torch.bool)
        found = simulation_likelihood(frames, frames, nothing, 1, 0.3)
        assert found.data == pytest.approx(-24 * (math.log(0.3) + 0.5 * math.log(2 * math.pi)))
        assert found.relational == 0 and found.colliding is None

    @pytest.mark.parametrize(
        ("shapes", "seen", "words"),
        [
            (((T, B, 1, 4, 6), (T, B, 1, 4, 5), (T, B, 4, 6)), 1, "frames of shape"),
            (((T, B, 1, 4, 6), (T, B, 1, 4, 6), (T, B, 6, 4)), 1, "collisions of shape"),
            (((T, B, 1, 4, 6), (T, B, 1, 4, 6), (T, B, 4, 6)), T, "seen from 0"),
        ],
    )
    def test_wrong_arguments(self, shapes, seen, words):
        image, frames, collisions = (torch.zeros(shape) for shape in shapes)
        with pytest.raises(ValueError, match=words):
            simulation_likelihood(image, frames, collisions.bool(), seen, 0.3)


def rollout(centres: Tensor, ids: Tensor, present: Tensor) -> Rollout:
    """Objects with boxes of 4 pixels about centres [T, B, N, 2]."""
    box = torch.cat([centres - 2, torch.full_like(centres, 4.0)], -1)
    where = where_from_boxes(box, (SIDE, SIDE))
    objects = Objects(present.float(), where, torch.zeros(*present.shape, 1), torch.where(present, ids, -1))
    return Rollout(objects, torch.zeros(*present.shape[:2], 1, SIDE, SIDE))


def true_boxes(centres: Tensor) -> Tensor:
    return torch.cat([centres - 3, torch.full_like(centres, 6.0)], -1)


class TestRolloutError:
    def test_distance_by_identity_whatever_the_slot(self):
        """Two objects are off by (3, 4) and (0, 1) times the frames since the last one seen; slots swap on the way."""
        truth = torch.tensor([[6.0, 5.0], [12.0, 10.0]]).expand(T, B, 2, 2).clone()
        seen = 2
        late = (torch.arange(T) - seen + 1).clamp(min=0).reshape(T, 1, 1, 1)
        off = torch.tensor([[0.3, 0.4], [0.0, 0.1]])
        centres = truth + late * off
        ids = torch.tensor([7, 9]).expand(T, B, 2).clone()
        centres[3:], ids[3:] = centres[3:].flip(2), ids[3:].flip(2)
        present = torch.ones(T, B, 2, dtype=torch.bool)
        found = rollout_error(rollout(centres, ids, present), true_boxes(truth), present, seen)
        assert found.per_frame == pytest.approx([0.3, 0.6, 0.9], abs=1e-4)
        assert found.overall == pytest.approx(0.6, abs=1e-4)
        assert (found.followed, found.lost) == (4, 0.0)

    def test_a_box_may_sit_beside_its_object(self):
        truth = torch.rand(T, B, 1, 2) * 6 + 4
        present = torch.ones(T, B, 1, dtype=torch.bool)
        beside = truth + torch.tensor([2.0, -1.0])
        found = rollout_error(
            rollout(beside, torch.zeros(T, B, 1, dtype=torch.int64), present), true_boxes(truth), present, 2
        )
        assert found.overall < 1e-4

    def test_lost_objects_count_where_they_last_were(self):
        truth = torch.zeros(T, 1, 1, 2)
        truth[..., 0], truth[..., 1] = torch.arange(T).reshape(T, 1, 1) + 5.0, 9.0
        present = torch.ones(T, 1, 1, dtype=torch.bool)
        present[3:] = False
        found = rollout_error(
            rollout(truth, torch.zeros(T, 1, 1, dtype=torch.int64), present),
            true_boxes(truth),
            torch.ones_like(present),
            2,
        )
        assert found.per_frame == pytest.approx([0.0, 1.0, 2.0], abs=1e-4)
        assert found.lost == 1.0

    def test_beyond_the_edge_counts_as_the_edge(self):
        truth = torch.tensor([25.0, -3.0]).expand(T, 1, 1, 2)
        centres = torch.tensor([19.99, 0.01]).expand(T, 1, 1, 2)
        present = torch.ones(T, 1, 1, dtype=torch.bool)
        found = rollout_error(
            rollout(centres, torch.zeros(T, 1, 1, dtype=torch.int64), present), true_boxes(truth), present, 1
        )
        assert found.overall < 0.02

    def test_of_several_futures_the_mean_is_compared(self):
        """Two futures are off by the same in opposite directions, a third by (0.3, 0.6); it loses one object of two."""
        truth = torch.tensor([[6.0, 5.0], [12.0, 10.0]]).expand(T, B, 2, 2).clone()
        ids = torch.tensor([7, 9]).expand(T, B, 2)
        present = torch.ones(T, B, 2, dtype=torch.bool)
        fewer = present.clone()
        fewer[3:, :, 1] = False
        off = torch.zeros(T, 1, 1, 2)
        off[2:] = torch.tensor([0.3, 0.6])
        futures = [
            rollout(truth + off, ids, present),
            rollout(truth - off, ids, present),
            rollout(truth + off, ids, fewer),
        ]
        found = rollout_error(futures, true_boxes(truth), present, 2)
        assert found.per_frame == pytest.approx([0.05**0.5] * 3, abs=1e-4)
        assert (found.followed, found.lost) == (4, pytest.approx(1 / 6))
        single = rollout_error(futures[:1], true_boxes(truth), present, 2)
        assert single == rollout_error(futures[0], true_boxes(truth), present, 2)

    def test_futures_begin_alike(self):
        truth, present = torch.full((T, B, 1, 2), 5.0), torch.ones(T, B, 1, dtype=torch.bool)
        ids = torch.zeros(T, B, 1, dtype=torch.int64)
        for other in (rollout(truth, ids + 1, present), rollout(truth + 1, ids, present)):
            with pytest.raises(ValueError, match="begin with the same objects"):
                rollout_error([rollout(truth, ids, present), other], true_boxes(truth), present, 2)
        with pytest.raises(ValueError, match="at least one rollout"):
            rollout_error([], true_boxes(truth), present, 2)

    def test_what_nobody_can_see_is_not_judged(self):
        """Balls leave the frame and return. Who knows where they are makes no error, whatever their box is then."""
        balls = held_out(BouncingBalls(four_balls()), 20, 12, 0)
        seen = only_visible(balls)
        assert (seen.present[3] & ~seen.present[6]).any()
        corner, size = balls.boxes.split(2, -1)
        centre = (corner + size / 2).clamp(0.01, 49.99)  # no box can have its centre outside
        where = where_from_boxes(torch.cat([centre - size / 2, size], -1), (50, 50))
        knows = Objects(balls.present.float(), where, torch.zeros(*balls.present.shape, 1), balls.ids)
        oracle = Rollout(knows, balls.frames)
        found = rollout_error(oracle, seen.boxes, seen.present, 4)
        assert found.overall < 0.05
        absent = seen.present.clone()
        absent[7] = False
        with pytest.raises(ValueError, match="present in every frame"):
            rollout_error(oracle, seen.boxes, absent, 4)

    def test_wrong_arguments(self):
        present = torch.ones(T, B, 1, dtype=torch.bool)
        imagined = rollout(torch.full((T, B, 1, 2), 5.0), torch.zeros(T, B, 1, dtype=torch.int64), present)
        boxes = torch.zeros(T, B, 1, 4)
        for arguments, words in (
            ((imagined, boxes[:-1], present[:-1], 1), "boxes_true"),
            ((imagined, boxes, present, 0), "seen from 1"),
            ((imagined, boxes, present, T), "seen from 1"),
            ((imagined, boxes, ~present, 1), "expected objects to follow"),
        ):
            with pytest.raises(ValueError, match=words):
                rollout_error(*arguments)
