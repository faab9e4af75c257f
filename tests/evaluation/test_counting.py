# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

import pytest
import torch
from torch import Tensor

from pyro_sqair.evaluation import CountAccuracy, count_accuracy, discoveries_per_frame
from pyro_sqair.scene.objects import Objects


def objects_with_ids(ids: Tensor) -> Objects:
    """Objects that are present where their id, [T, B, N], is not -1."""
    return Objects(pres=(ids >= 0).float(), where=torch.zeros(*ids.shape, 4), what=torch.zeros(*ids.shape, 1), id=ids)


def test_count_accuracy_by_hand() -> None:
    pres = torch.tensor(
        [
            [[1, 1, 0], [0, 0, 0], [1, 0, 1], [1, 1, 1]],
            [[1, 0, 0], [0, 0, 0], [0, 1, 1], [1, 0, 1]],
        ]
    ).float()
    count = torch.tensor([[2, 0, 2, 2], [2, 0, 1, 2]])
    assert count_accuracy(pres, count) == CountAccuracy(overall=5 / 8, per_frame=[0.75, 0.5])


@pytest.mark.parametrize(("pres", "count"), [((2, 3), (2, 3)), ((2, 3, 4), (3, 2)), ((0, 3, 4), (0, 3))])
def test_wrong_shapes(pres: tuple[int, ...], count: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected (pres|count) of shape"):
        count_accuracy(torch.zeros(pres), torch.zeros(count))


def test_discoveries_by_hand() -> None:
    ids = torch.tensor(
        [
            [[0, 1], [-1, -1]],
            [[1, 0], [0, -1]],  # the first sequence exchanges its slots, the second discovers 0
            [[1, 2], [1, -1]],  # the first discovers 2 and loses 0, the second discovers 1
            [[0, 2], [1, 2]],  # 0 returns to the first and is not new, the second discovers 2
        ]
    )
    assert discoveries_per_frame(objects_with_ids(ids)) == [1.0, 0.5, 1.0, 0.5]


def test_discoveries_ignore_the_ids_of_absent_objects() -> None:
    objects = objects_with_ids(torch.tensor([[[0, -1]], [[0, 1]]]))
    objects = objects._replace(id=torch.tensor([[[0, 1]], [[0, 1]]]))
    assert discoveries_per_frame(objects) == [1.0, 1.0]
