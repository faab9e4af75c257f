# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

import pytest
import torch
from torch import Tensor

from pyro_sqair.evaluation import TrackingScore, tracking_score
from pyro_sqair.scene.objects import Objects
from pyro_sqair.scene.spatial import where_from_boxes

SIZE = (50, 100)  # height, width

# Two objects far apart that do not move for four frames: left, top, width, height.
HOME = torch.tensor([[10.0, 10.0, 20.0, 20.0], [60.0, 20.0, 20.0, 20.0]]).expand(4, 1, 2, 4)
TRUE_IDS = torch.tensor([[[0, 1]]]).expand(4, 1, 2)


def scene(ids: list, box: Tensor = HOME) -> Objects:
    """Objects with the given ids, [T, B, N], present where these are not -1, in the given boxes."""
    names = torch.tensor(ids)
    return Objects((names >= 0).float(), where_from_boxes(box, SIZE), torch.zeros(*names.shape, 1), names)


def test_perfect_tracking_in_any_slots() -> None:
    ids = [[[3, 5]], [[5, 3]], [[3, 5]], [[5, 3]]]
    box = torch.stack([HOME[t].flip(-2) if t % 2 else HOME[t] for t in range(4)])
    result = tracking_score(scene(ids, box), HOME, TRUE_IDS, SIZE)
    assert result[:5] == (8, 0, 0, 6, 0)
    assert result.mean_iou == pytest.approx(1.0, abs=1e-5)
    assert result.ids_kept == 1.0


@pytest.mark.parametrize(
    ("ids", "matched", "missed", "rematched", "switches"),
    [
        # The first object changes its id in frames 2 and 3; the second is lost in frame 2 and found again.
        ([[[0, 1]], [[0, 1]], [[2, -1]], [[0, 1]]], 7, 1, 5, 2),
        # The second object has another id after a gap of two frames.
        ([[[0, 1]], [[0, -1]], [[0, -1]], [[0, 2]]], 6, 2, 4, 1),
        # The two objects exchange their ids.
        ([[[0, 1]], [[0, 1]], [[1, 0]], [[1, 0]]], 8, 0, 6, 2),
    ],
)
def test_switches_by_hand(ids: list, matched: int, missed: int, rematched: int, switches: int) -> None:
    result = tracking_score(scene(ids), HOME, TRUE_IDS, SIZE)
    assert result[:5] == (matched, missed, 0, rematched, switches)
    assert result.ids_kept == pytest.approx(1 - switches / rematched)


@pytest.mark.parametrize(
    ("ids", "matched", "missed", "spurious", "rematched", "switches", "ids_kept"),
    [
        # A new id for the object that enters; the old id for the object that returns.
        ([[[0, -1]], [[0, 1]], [[-1, 1]], [[0, 1]]], 6, 0, 0, 4, 0, 1.0),
        # A new id for the object that returns: one switch in four.
        ([[[0, -1]], [[0, 1]], [[-1, 1]], [[2, 1]]], 6, 0, 0, 4, 1, 0.75),
        # The object that returns takes the id of the other, which gets a new id.
        ([[[0, -1]], [[0, 1]], [[-1, 1]], [[1, 2]]], 6, 0, 0, 4, 2, 0.5),
        # Boxes remain where the objects are absent. They are spurious and keep nothing.
        ([[[0, 1]], [[0, 1]], [[0, 1]], [[0, 1]]], 6, 0, 2, 4, 0, 1.0),
        # A different id in every frame.
        ([[[0, -1]], [[1, 2]], [[-1, 3]], [[4, 5]]], 6, 0, 0, 4, 4, 0.0),
        # Each object is found only once, so no match can keep an id.
        ([[[0, -1]], [[-1, 1]], [[-1, -1]], [[-1, -1]]], 2, 4, 0, 0, 0, None),
    ],
)
def test_objects_that_enter_leave_and_return(
    ids: list, matched: int, missed: int, spurious: int, rematched: int, switches: int, ids_kept: float | None
) -> None:
    """The first object is absent in frame 2 and returns; the second enters in frame 1."""
    true_ids = torch.tensor([[[7, -1]], [[7, 4]], [[-1, 4]], [[7, 4]]])
    result = tracking_score(scene(ids), HOME, true_ids, SIZE)
    assert result[:5] == (matched, missed, spurious, rematched, switches)
    assert result.ids_kept == ids_kept


def test_sequences_do_not_share_their_ids() -> None:
    both = HOME.expand(4, 2, 2, 4)
    result = tracking_score(scene([[[0, 1], [1, 0]]] * 4, both), both, TRUE_IDS.expand(4, 2, 2), SIZE)
    assert result[:5] == (16, 0, 0, 12, 0)


def test_pairs_out_of_reach_are_missed_and_spurious() -> None:
    """The reach is a fifth of 50 pixels."""
    far, near = (HOME + torch.tensor([0.0, offset, 0.0, 0.0]) for offset in (10.5, 9.5))
    ids = [[[0, 1]]] * 4
    result = tracking_score(scene(ids, far), HOME, TRUE_IDS, SIZE)
    assert result == TrackingScore(0, 8, 8, 0, 0, None)
    assert result.ids_kept is None
    result = tracking_score(scene(ids, near), HOME, TRUE_IDS, SIZE)
    assert result[:5] == (8, 0, 0, 6, 0)
    assert result.mean_iou == pytest.approx(10.5 / 29.5, abs=1e-5)


def test_as_many_pairs_as_possible() -> None:
    """Inferred at 0 and 8 on a line, true at 8 and 17. Matching the closest pair first would leave the others apart."""
    inferred = torch.tensor([[[[20.0, 10.0, 10.0, 10.0], [28.0, 10.0, 10.0, 10.0]]]])
    true = torch.tensor([[[[28.0, 10.0, 10.0, 10.0], [37.0, 10.0, 10.0, 10.0]]]])
    assert tracking_score(scene([[[0, 1]]], inferred), true, torch.tensor([[[0, 1]]]), SIZE).matched == 2


@pytest.mark.parametrize("num_true", [0, 2])
def test_no_objects(num_true: int) -> None:
    true_ids = torch.full((4, 1, num_true), -1)
    result = tracking_score(scene([[[-1, -1]]] * 4), HOME[:, :, :num_true], true_ids, SIZE)
    assert result == TrackingScore(0, 0, 0, 0, 0, None)


@pytest.mark.parametrize("ids_shape", [(4, 2), (3, 1, 2), (4, 1, 3)])
def test_wrong_shapes(ids_shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected (ids_true|boxes_true) of shape"):
        tracking_score(scene([[[0, 1]]] * 4), HOME, torch.zeros(ids_shape), SIZE)
