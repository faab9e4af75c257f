# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""A square that moves two pixels a frame, half of it outside the last one: its box is drawn where it is."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image, ImageSequence

from pyro_sqair.data import Sequences
from pyro_sqair.viz import animate_ground_truth, color_of, draw_ground_truth

STEPS, BATCH, SIDE = 4, 3, 20


def moving_square(objects: int = 2) -> Sequences:
    """The second of two objects is absent; the first has identity 3."""
    shape = STEPS, BATCH, objects
    present = torch.zeros(shape, dtype=torch.bool)
    boxes = torch.zeros(*shape, 4)
    frames = torch.zeros(STEPS, BATCH, 1, SIDE, SIDE)
    if objects:
        present[..., 0] = True
        for t in range(STEPS):
            left = 6 + 4 * t
            boxes[t, :, 0] = torch.tensor([left, 8.0, 6.0, 4.0])
            frames[t, :, :, 8:12, left : left + 6] = 0.5
    return Sequences(
        frames=frames,
        count=present.sum(-1),
        present=present,
        boxes=boxes,
        ids=torch.where(present, 3, -1),
        labels=torch.where(present[0], 0, -1),
    )


def columns_of(picture: np.ndarray, color: str) -> np.ndarray:
    """The columns in which a colour is found, up to what a palette of 256 colours costs."""
    return np.nonzero((np.abs(picture - 255 * np.array(to_rgb(color))) < 8).all(-1).any(0))[0]


def test_gif_draws_the_box_where_the_object_is(tmp_path: Path) -> None:
    animate_ground_truth(moving_square(), tmp_path / "truth.gif", rows=1, zoom=4)
    with Image.open(tmp_path / "truth.gif") as image:
        pictures = [np.asarray(frame.convert("RGB")).astype(float) for frame in ImageSequence.Iterator(image)]
    assert len(pictures) == STEPS
    found = [columns_of(picture, color_of(3)) for picture in pictures]
    # Lines are as wide as a pixel of the frame, 4, and lie astride the box's edge; the last box is cut off at 20.
    expected = [(4 * (6 + 4 * t) - 2, min(4 * (12 + 4 * t) + 2, 4 * SIDE)) for t in range(STEPS)]
    assert [(columns.min(), columns.max() + 1) for columns in found] == expected


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_contact_sheet_has_a_row_for_each_sequence(tmp_path: Path, rows: int) -> None:
    draw_ground_truth(moving_square(), tmp_path / "truth.png", rows=rows)
    with Image.open(tmp_path / "truth.png") as image:
        picture = np.asarray(image.convert("RGB")).astype(float)
    grey = (np.abs(picture - 128) < 1).all(-1)
    # The squares of a row are many grey pixels in a line, the edges of letters few.
    starts = np.diff(np.concatenate([[0], (grey.sum(1) > 30).astype(int)])) == 1
    assert starts.sum() == min(rows, BATCH)


def test_frames_without_known_objects_are_drawn_bare(tmp_path: Path) -> None:
    draw_ground_truth(moving_square(objects=0), tmp_path / "truth.png")
    animate_ground_truth(moving_square(objects=0), tmp_path / "truth.gif")
    with Image.open(tmp_path / "truth.png") as image:
        assert not len(columns_of(np.asarray(image.convert("RGB")).astype(float), color_of(3)))


def test_objects_of_one_sequence_have_different_colours(tmp_path: Path) -> None:
    """3 and 13 would share one of ten colours: ids of recordings are any numbers."""
    both = moving_square()
    left = both.boxes[..., 0, :] - torch.tensor([6.0, -6.0, 0.0, 0.0])
    there = torch.ones_like(both.present)
    both = both._replace(present=there, boxes=torch.stack([both.boxes[..., 0, :], left], -2))
    for ids, colors in (((3, 13), (3, 4)), ((13, 3), (4, 3)), ((9, 19), (9, 0)), ((3, 4), (3, 4))):
        sequences = both._replace(ids=torch.tensor(ids).expand(both.ids.shape))
        draw_ground_truth(sequences, tmp_path / "truth.png", rows=1, columns=1)
        with Image.open(tmp_path / "truth.png") as image:
            picture = np.asarray(image.convert("RGB")).astype(float)
        right, other = (columns_of(picture, color_of(color)) for color in colors)
        assert len(right) and len(other) and other.min() < right.min()


def test_wrong_arguments_leave_no_file(tmp_path: Path) -> None:
    for call in (
        lambda: animate_ground_truth(moving_square(), tmp_path / "truth.png"),
        lambda: animate_ground_truth(moving_square(), tmp_path / "truth.gif", columns=0),
        lambda: draw_ground_truth(moving_square(), tmp_path / "truth.png", columns=0),
    ):
        with pytest.raises(ValueError, match="expected"):
            call()
    assert list(tmp_path.iterdir()) == []
