# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

import pytest
import torch
from torch import Tensor

from pyro_sqair.evaluation import (
    IdStability,
    TrackingScore,
    id_stability,
    identity_switches,
)
from pyro_sqair.scene.objects import Objects
from pyro_sqair.scene.spatial import boxes

SIZE = (50, 100)  # height, width


def where_of(box: Tensor) -> Tensor:
    """The inverse of `pyro_sqair.scene.spatial.boxes`."""
    size = torch.tensor([SIZE[1], SIZE[0]], dtype=box.dtype)
    scale = box[..., 2:] / size
    shift = 2 * (box[..., :2] + box[..., 2:] / 2) / size - 1
    return torch.cat([scale.logit(), shift.atanh()], -1)


def scene(ids: list, box: Tensor | None = None) -> Objects:
    """Objects with the given ids, [T, B, N], present where these are not -1, in the given boxes."""
    names = torch.tensor(ids)
    where = torch.zeros(*names.shape, 4) if box is None else where_of(box)
    return Objects(pres=(names >= 0).float(), where=where, what=torch.zeros(*names.shape, 1), id=names)


# Two objects far apart, standing still for four frames: left, top, width, height.
HOME = torch.tensor([[10.0, 10.0, 20.0, 20.0], [60.0, 20.0, 20.0, 20.0]]).expand(4, 1, 2, 4)
TRUE_IDS = torch.tensor([[[0, 1]]]).expand(4, 1, 2)


def test_id_stability_by_hand() -> None:
    ids = [
        # kept, swapped slots, renamed, wrong count, empty, an object too many at the end, comes and goes
        [[0, 1], [0, 1], [0, -1], [0, -1], [-1, -1], [0, -1], [0, -1]],
        [[0, 1], [1, 0], [0, -1], [0, -1], [-1, -1], [0, -1], [0, 1]],
        [[0, 1], [0, 1], [1, -1], [0, -1], [-1, -1], [0, 1], [0, -1]],
    ]
    count = torch.tensor([[2, 2, 1, 2, 0, 1, 1], [2, 2, 1, 2, 0, 1, 2], [2, 2, 1, 2, 0, 1, 1]])
    result = id_stability(scene(ids), count)
    assert result == IdStability(kept=2, counted=3)
    assert result.fraction == pytest.approx(2 / 3)


def test_id_stability_of_nothing_is_unknown() -> None:
    result = id_stability(scene([[[-1, -1]]]), torch.tensor([[0]]))
    assert result == IdStability(kept=0, counted=0)
    assert result.fraction is None


def test_boxes_of_these_tests_are_where_they_should_be() -> None:
    torch.testing.assert_close(boxes(where_of(HOME), SIZE), HOME)


def test_perfect_tracking_in_whatever_slots() -> None:
    ids = [[[3, 5]], [[5, 3]], [[3, 5]], [[5, 3]]]
    box = torch.stack([HOME[t].flip(-2) if t % 2 else HOME[t] for t in range(4)])
    result = identity_switches(scene(ids, box), HOME, TRUE_IDS, SIZE)
    assert result[:4] == (0, 8, 0, 0)
    assert result.mean_iou == pytest.approx(1.0, abs=1e-5)


def test_switches_by_hand() -> None:
    # The first object is renamed at frame 2 and at frame 3; the second is lost at frame 2 and found again.
    ids = [[[0, 1]], [[0, 1]], [[2, -1]], [[0, 1]]]
    result = identity_switches(scene(ids, HOME), HOME, TRUE_IDS, SIZE)
    assert result[:4] == (2, 7, 1, 0)


def test_a_gap_does_not_hide_a_switch() -> None:
    ids = [[[0, 1]], [[0, -1]], [[0, -1]], [[0, 2]]]
    assert identity_switches(scene(ids, HOME), HOME, TRUE_IDS, SIZE)[:4] == (1, 6, 2, 0)


def test_swapped_ids_are_two_switches() -> None:
    ids = [[[0, 1]], [[0, 1]], [[1, 0]], [[1, 0]]]
    assert identity_switches(scene(ids, HOME), HOME, TRUE_IDS, SIZE).switches == 2


def test_sequences_do_not_share_their_ids() -> None:
    ids = [[[0, 1], [1, 0]]] * 4
    both = identity_switches(
        scene(ids, HOME.expand(4, 2, 2, 4)), HOME.expand(4, 2, 2, 4), TRUE_IDS.expand(4, 2, 2), SIZE
    )
    assert both[:4] == (0, 16, 0, 0)


def test_what_is_out_of_reach_is_missed_and_spurious() -> None:
    far = HOME + torch.tensor([0.0, 10.5, 0.0, 0.0])  # the reach is a fifth of 50 pixels
    ids = [[[0, 1]]] * 4
    assert identity_switches(scene(ids, far), HOME, TRUE_IDS, SIZE) == TrackingScore(0, 0, 8, 8, None)
    near = HOME + torch.tensor([0.0, 9.5, 0.0, 0.0])
    result = identity_switches(scene(ids, near), HOME, TRUE_IDS, SIZE)
    assert result[:4] == (0, 8, 0, 0)
    assert result.mean_iou == pytest.approx(10.5 / 29.5, abs=1e-5)


def test_as_many_pairs_as_possible() -> None:
    # On a line: inferred at 0 and 8, true at 8 and 17. The closest pair alone would leave two over.
    inferred = torch.tensor([[[[20.0, 10.0, 10.0, 10.0], [28.0, 10.0, 10.0, 10.0]]]])
    true = torch.tensor([[[[28.0, 10.0, 10.0, 10.0], [37.0, 10.0, 10.0, 10.0]]]])
    result = identity_switches(scene([[[0, 1]]], inferred), true, torch.tensor([[[0, 1]]]), SIZE)
    assert result.matched == 2


def test_no_objects_at_all() -> None:
    result = identity_switches(scene([[[-1, -1]]] * 4), HOME, torch.full((4, 1, 2), -1), SIZE)
    assert result == TrackingScore(0, 0, 0, 0, None)


@pytest.mark.parametrize("ids_shape", [(4, 2), (3, 1, 2), (4, 1, 3)])
def test_wrong_shapes(ids_shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        identity_switches(scene([[[0, 1]]] * 4, HOME), HOME, torch.zeros(ids_shape), SIZE)
    with pytest.raises(ValueError, match="expected count of shape"):
        id_stability(scene([[[0, 1]]] * 4), torch.zeros(ids_shape))
