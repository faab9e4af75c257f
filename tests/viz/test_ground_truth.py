# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import extent, has_color, read_gif, read_image

from pyro_sqair.data import Sequences
from pyro_sqair.viz import animate_ground_truth, color_of, draw_ground_truth

STEPS, BATCH, SIDE = 4, 3, 20
TOLERANCE = 7  # of the colours of a GIF


def moving_object() -> Sequences:
    """A grey rectangle that moves 4 pixels a frame and leaves the frame in part. Its id is 3; the next is absent."""
    present = torch.tensor([True, False]).expand(STEPS, BATCH, 2)
    boxes = torch.zeros(STEPS, BATCH, 2, 4)
    frames = torch.zeros(STEPS, BATCH, 1, SIDE, SIDE)
    for t, left in enumerate(range(6, 6 + 4 * STEPS, 4)):
        boxes[t, :, 0] = torch.tensor([left, 8.0, 6.0, 4.0])
        frames[t, :, :, 8:12, left : left + 6] = 0.5
    ids = torch.where(present, 3, -1)
    return Sequences(frames, present.sum(-1), present, boxes, ids, labels=torch.where(present[0], 0, -1))


def test_gif_draws_the_box_where_the_object_is(tmp_path: Path) -> None:
    animate_ground_truth(moving_object(), tmp_path / "truth.gif", rows=1)
    found = [extent(has_color(picture, color_of(3), TOLERANCE))[:2] for picture in read_gif(tmp_path / "truth.gif")]
    # Frames are enlarged 10 times. Lines are one pixel of the frame wide and centred on the edge of the box; the last
    # box is clipped at 20.
    assert found == [(10 * (6 + 4 * t) - 5, min(10 * (12 + 4 * t) + 5, 10 * SIDE) - 1) for t in range(STEPS)]


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_figure_has_a_row_for_each_sequence(tmp_path: Path, rows: int) -> None:
    draw_ground_truth(moving_object(), tmp_path / "truth.png", rows=rows)
    grey = has_color(read_image(tmp_path / "truth.png"), "#808080")
    # An object has many grey pixels in a line, the edge of a letter few.
    starts = np.diff(np.concatenate([[0], (grey.sum(1) > 30).astype(int)])) == 1
    assert starts.sum() == min(rows, BATCH)


def test_frames_without_objects_have_no_boxes(tmp_path: Path) -> None:
    sequences = moving_object()
    none = {name: getattr(sequences, name)[:, :, :0] for name in ("present", "boxes", "ids")}
    draw_ground_truth(sequences._replace(**none), tmp_path / "truth.png")
    animate_ground_truth(sequences._replace(**none), tmp_path / "truth.gif")
    assert not has_color(read_image(tmp_path / "truth.png"), color_of(3), TOLERANCE).any()
    assert len(read_gif(tmp_path / "truth.gif")) == STEPS


def test_objects_of_one_sequence_have_different_colors(tmp_path: Path) -> None:
    """Ids of recordings are any numbers: 3 and 13 would share one of ten colours."""
    both = moving_object()
    left = both.boxes[..., 0, :] - torch.tensor([6.0, -6.0, 0.0, 0.0])
    both = both._replace(present=torch.ones_like(both.present), boxes=torch.stack([both.boxes[..., 0, :], left], -2))
    for ids, colors in (((3, 13), (3, 4)), ((13, 3), (4, 3)), ((9, 19), (9, 0)), ((3, 4), (3, 4))):
        sequences = both._replace(ids=torch.tensor(ids).expand(both.ids.shape))
        draw_ground_truth(sequences, tmp_path / "truth.png", rows=1, columns=1)
        picture = read_image(tmp_path / "truth.png")
        right, other = (extent(has_color(picture, color_of(color), TOLERANCE)) for color in colors)
        assert other[0] < right[0]


def test_wrong_arguments_leave_no_file(tmp_path: Path) -> None:
    for call in (
        lambda: animate_ground_truth(moving_object(), tmp_path / "truth.png"),
        lambda: animate_ground_truth(moving_object(), tmp_path / "truth.gif", fps=0),
        lambda: draw_ground_truth(moving_object(), tmp_path / "truth.png", columns=0),
    ):
        with pytest.raises(ValueError, match="expected"):
            call()
    assert list(tmp_path.iterdir()) == []
