# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

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
        result = simulation_likelihood(image, frames, collisions, 2, 0.4)
        data, relational, frames_with_collision = [], [], 0
        for t in range(2, T):
            for b in range(B):
                error = (frames[t, b] - image[t, b]).double() / 0.4
                log_prob = (-0.5 * error**2 - math.log(0.4 * math.sqrt(2 * math.pi))).sum(0)
                data.append(log_prob.sum())
                relational.append(sum(log_prob[y, x] for y, x in collisions[t, b].nonzero().tolist()) + 0.0)
                frames_with_collision += bool(collisions[t, b].any())
        assert result.data == pytest.approx(float(sum(data) / len(data)))
        assert result.relational == pytest.approx(float(sum(relational) / len(relational)))
        assert result.colliding == pytest.approx(float(sum(relational) / frames_with_collision))

    def test_perfect_prediction_without_collisions(self):
        frames = torch.rand(T, B, 1, 4, 6)
        collisions = torch.zeros(T, B, 4, 6, dtype=torch.bool)
        result = simulation_likelihood(frames, frames, collisions, 1, 0.3)
        assert result.data == pytest.approx(-24 * (math.log(0.3) + 0.5 * math.log(2 * math.pi)))
        assert result.relational == 0 and result.colliding is None

    @pytest.mark.parametrize(
        ("width", "collisions", "seen", "words"),
        [(5, (4, 6), 1, "frames of shape"), (6, (6, 4), 1, "collisions of shape"), (6, (4, 6), T, "seen from 0")],
    )
    def test_wrong_arguments(self, width, collisions, seen, words):
        image, frames = torch.zeros(T, B, 1, 4, 6), torch.zeros(T, B, 1, 4, width)
        with pytest.raises(ValueError, match=words):
            simulation_likelihood(image, frames, torch.zeros(T, B, *collisions, dtype=torch.bool), seen, 0.3)


def rollout(centres: Tensor, ids: Tensor | int = 0, present: Tensor | bool = True) -> Rollout:
    """Objects in boxes of 4 pixels around the centres, [T, B, N, 2]."""
    shape = centres.shape[:-1]
    ids, present = torch.as_tensor(ids).expand(shape), torch.as_tensor(present).expand(shape)
    where = where_from_boxes(torch.cat([centres - 2, torch.full_like(centres, 4.0)], -1), (SIDE, SIDE))
    objects = Objects(present.float(), where, torch.zeros(*shape, 1), torch.where(present, ids, -1))
    return Rollout(objects, torch.zeros(*shape[:2], 1, SIDE, SIDE))


def truth_of(centres: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes of 6 pixels around the centres, all present."""
    boxes = torch.cat([centres - 3, torch.full_like(centres, 6.0)], -1)
    return boxes, torch.ones(centres.shape[:-1], dtype=torch.bool)


TWO = torch.tensor([[6.0, 5.0], [12.0, 10.0]]).expand(T, B, 2, 2)
TWO_IDS = torch.tensor([7, 9]).expand(T, B, 2)


class TestRolloutError:
    def test_objects_are_followed_by_id_in_any_slot(self):
        """The first object is off by 0.5 per imagined frame, the second by 0.1; they exchange their slots."""
        frames_imagined = (torch.arange(T) - 1).clamp(min=0).reshape(T, 1, 1, 1)
        centres, ids = TWO + frames_imagined * torch.tensor([[0.3, 0.4], [0.0, 0.1]]), TWO_IDS.clone()
        centres[3:], ids[3:] = centres[3:].flip(2), ids[3:].flip(2)
        result = rollout_error(rollout(centres, ids), *truth_of(TWO), seen=2)
        assert result.per_frame == pytest.approx([0.3, 0.6, 0.9], abs=1e-4)
        assert result.overall == pytest.approx(0.6, abs=1e-4)
        assert (result.followed, result.lost) == (4, 0.0)

    def test_constant_offset_does_not_count(self):
        centres = torch.rand(T, B, 1, 2) * 6 + 4
        result = rollout_error(rollout(centres + torch.tensor([2.0, -1.0])), *truth_of(centres), seen=2)
        assert result.overall < 1e-4

    def test_lost_objects_remain_at_their_last_position(self):
        centres = torch.stack([torch.arange(T) + 5.0, torch.full((T,), 9.0)], -1).reshape(T, 1, 1, 2)
        present = (torch.arange(T) < 3).reshape(T, 1, 1)
        result = rollout_error(rollout(centres, present=present), *truth_of(centres), seen=2)
        assert result.per_frame == pytest.approx([0.0, 1.0, 2.0], abs=1e-4)
        assert result.lost == 1.0

    def test_true_centres_outside_are_moved_to_the_edge(self):
        inferred, true = (torch.tensor(centre).expand(T, 1, 1, 2).clone() for centre in ([10.0, 10.0], [10.0, 10.0]))
        inferred[1:], true[1:] = torch.tensor([19.99, 0.01]), torch.tensor([25.0, -3.0])
        assert rollout_error(rollout(inferred), *truth_of(true), seen=1).overall < 0.02

    def test_mean_of_several_rollouts(self):
        """Errors of (0.3, 0.6), its opposite, and (0.3, 0.6) again; the third rollout loses one of two objects."""
        off = torch.tensor([0.3, 0.6]) * (torch.arange(T) >= 2).reshape(T, 1, 1, 1)
        present = torch.ones(T, B, 2, dtype=torch.bool)
        present[3:, :, 1] = False
        futures = [rollout(TWO + off, TWO_IDS), rollout(TWO - off, TWO_IDS), rollout(TWO + off, TWO_IDS, present)]
        result = rollout_error(futures, *truth_of(TWO), seen=2)
        assert result.per_frame == pytest.approx([0.05**0.5] * 3, abs=1e-4)
        assert (result.followed, result.lost) == (4, pytest.approx(1 / 6))
        assert rollout_error(futures[:1], *truth_of(TWO), seen=2) == rollout_error(futures[0], *truth_of(TWO), seen=2)

    def test_absent_true_objects_are_ignored(self):
        """Balls leave the frame and return. A box in the right place has no error while its ball is not visible."""
        balls = held_out(BouncingBalls(four_balls()), 20, 12, 0)
        visible = only_visible(balls)
        assert (visible.present[3] & ~visible.present[6]).any()
        corner, size = balls.boxes.split(2, -1)
        centre = (corner + size / 2).clamp(0.01, 49.99)
        where = where_from_boxes(torch.cat([centre - size / 2, size], -1), (50, 50))
        objects = Objects(balls.present.float(), where, torch.zeros(*balls.present.shape, 1), balls.ids)
        oracle = Rollout(objects, balls.frames)
        assert rollout_error(oracle, visible.boxes, visible.present, seen=4).overall < 0.05
        absent = visible.present.clone()
        absent[7] = False
        with pytest.raises(ValueError, match="present in every frame"):
            rollout_error(oracle, visible.boxes, absent, seen=4)

    def test_wrong_arguments(self):
        centres = torch.full((T, B, 1, 2), 5.0)
        boxes, present = truth_of(centres)
        good = rollout(centres)
        for rollouts, boxes_true, present_true, seen, words in (
            (good, boxes[:-1], present[:-1], 1, "boxes_true"),
            (good, boxes, present, 0, "seen from 1"),
            (good, boxes, present, T, "seen from 1"),
            (good, boxes, ~present, 1, "expected objects to follow"),
            ([], boxes, present, 1, "at least one rollout"),
            ([good, rollout(centres, ids=1)], boxes, present, 2, "a different id"),
            ([good, rollout(centres + 1)], boxes, present, 2, "a different where"),
        ):
            with pytest.raises(ValueError, match=words):
                rollout_error(rollouts, boxes_true, present_true, seen)
