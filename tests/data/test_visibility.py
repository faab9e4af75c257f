# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Visible objects, against areas computed by hand."""

import pytest
import torch

from pyro_sqair.data import BouncingBalls, Sequences, four_balls, held_out, only_visible


def one_object(*boxes: tuple[float, float, float, float]) -> Sequences:
    """One object in frames of 10 x 20 pixels, with a different box in each."""
    steps = len(boxes)
    return Sequences(
        frames=torch.zeros(steps, 1, 1, 10, 20),
        count=torch.ones(steps, 1, dtype=torch.int64),
        present=torch.ones(steps, 1, 1, dtype=torch.bool),
        boxes=torch.tensor(boxes).reshape(steps, 1, 1, 4),
        ids=torch.full((steps, 1, 1), 3),
        labels=torch.zeros(1, 1, dtype=torch.int64),
    )


BOXES = (
    (2.0, 2.0, 4.0, 4.0),
    (-2.0, 2.0, 4.0, 4.0),
    (18.0, 8.0, 4.0, 4.0),
    (20.0, 0.0, 4.0, 4.0),
    (-3.0, -3.0, 4.0, 4.0),
)
SHARES = (1.0, 0.5, 0.25, 0.0, 1 / 16)


@pytest.mark.parametrize("share", [0.0, 0.06, 0.25, 0.3, 0.5, 0.6, 1.0])
def test_the_share_of_the_box_decides(share):
    seen = only_visible(one_object(*BOXES), share)
    expected = [s > 0 and s >= share for s in SHARES]
    assert seen.present[:, 0, 0].tolist() == expected
    assert seen.count[:, 0].tolist() == [int(s) for s in expected]
    assert seen.ids[:, 0, 0].tolist() == [3 if s else -1 for s in expected]
    assert seen.boxes[:, 0, 0].abs().sum(-1).gt(0).tolist() == expected
    absent = seen._replace(present=torch.zeros_like(seen.present))
    assert not only_visible(absent, share).present.any()


def test_balls_come_and_go():
    balls = held_out(BouncingBalls(four_balls()), 20, 40, 0)
    seen = only_visible(balls)
    assert (balls.count == 4).all() and seen.count.min() < 4 and seen.count.max() == 4
    assert torch.equal(seen.frames, balls.frames) and seen.collisions is balls.collisions


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_shares_out_of_range_are_refused(share):
    with pytest.raises(ValueError, match="expected a share from 0 to 1"):
        only_visible(one_object(*BOXES), share)
