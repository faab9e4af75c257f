# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import HEIGHT, INPUT, RECONSTRUCTION, WIDTH, extent, has_color, moving_box, read_gif, read_image
from PIL import Image

from pyro_sqair.viz import animate_tracks, color_of, draw_prediction, draw_samples, draw_tracks
from pyro_sqair.viz.mosaic import EMPTY

ZOOM = 3  # of figures, for frames 50 pixels wide
FRAME = HEIGHT * WIDTH * ZOOM**2  # pixels of an enlarged frame
TOLERANCE = 7  # of the colours of a GIF


def test_box_has_its_color_and_place(tmp_path: Path) -> None:
    draw_tracks(*moving_box(steps=1, batch=1, ids=(3, 1)), tmp_path / "tracks.png")
    picture = read_image(tmp_path / "tracks.png")
    left, _, top, bottom = extent(has_color(picture, RECONSTRUCTION))
    assert bottom - top + 1 == HEIGHT * ZOOM
    for name, box_top in ((3, 6), (1, 18)):
        first, last, upper, lower = extent(has_color(picture, color_of(name)))
        # The line is one pixel of the frame wide and centred on the edge of the box (10, box_top, 16, 8).
        assert abs(first - (left + 10 * ZOOM - 1.5)) <= 1 and abs(last - (left + 26 * ZOOM + 0.5)) <= 1
        assert abs(upper - (top + box_top * ZOOM - 1.5)) <= 1
        assert abs(lower - (top + (box_top + 8) * ZOOM + 0.5)) <= 1
    assert has_color(picture, RECONSTRUCTION)[top + 10 * ZOOM, left + 18 * ZOOM]  # the box is not filled
    for other in set(range(10)) - {1, 3}:
        assert not has_color(picture, color_of(other)).any()


def test_input_is_above_and_without_boxes(tmp_path: Path) -> None:
    draw_tracks(*moving_box(steps=3, batch=2), tmp_path / "tracks.png")
    picture = read_image(tmp_path / "tracks.png")
    assert has_color(picture, INPUT).sum() == 3 * 2 * FRAME  # no pixel is covered by a box
    above, below = (extent(has_color(picture, color))[2] for color in (INPUT, RECONSTRUCTION))
    assert HEIGHT * ZOOM < below - above < (HEIGHT + 5) * ZOOM


def test_limits_of_sequences_and_columns(tmp_path: Path) -> None:
    frames, rollout = moving_box(steps=9, batch=5, ids=())
    draw_tracks(frames, rollout, tmp_path / "tracks.png", sequences=2, columns=4)
    draw_samples(rollout, tmp_path / "samples.png", sequences=3)
    for name, expected in (("tracks.png", 2 * 4), ("samples.png", 3 * 9)):
        assert has_color(read_image(tmp_path / name), RECONSTRUCTION).sum() == expected * FRAME


def test_columns_are_evenly_spaced_from_first_to_last(tmp_path: Path) -> None:
    _, rollout = moving_box(steps=9, batch=1, ids=())
    levels = torch.linspace(0.2, 1.0, 9)
    rollout = rollout._replace(image=levels.view(9, 1, 1, 1, 1).expand_as(rollout.image))
    draw_samples(rollout, tmp_path / "samples.png", columns=3)
    row = read_image(tmp_path / "samples.png")[-10, :, 0]
    shown = [value for value in (levels * 255).round().tolist() if (row == value).sum() >= WIDTH * ZOOM]
    assert shown == (levels[[0, 4, 8]] * 255).round().tolist()


def test_grey_frames_stay_grey(tmp_path: Path) -> None:
    draw_tracks(*moving_box(steps=2, batch=1, channels=1, ids=()), tmp_path / "tracks.png")
    picture = read_image(tmp_path / "tracks.png")
    assert (picture == picture[..., :1]).all()
    assert (has_color(picture, "#808080").sum(1) >= 2 * WIDTH * ZOOM).sum() == HEIGHT * ZOOM


def test_prediction_continues_after_the_frames_and_marks_the_border(tmp_path: Path) -> None:
    frames, rollout = moving_box(steps=6, batch=2, ids=())
    draw_prediction(frames[:4], rollout, 3, tmp_path / "prediction.png")
    picture = read_image(tmp_path / "prediction.png")
    assert has_color(picture, RECONSTRUCTION).sum() == 2 * 6 * FRAME
    assert has_color(picture, EMPTY).sum() == pytest.approx(2 * 2 * FRAME, rel=1e-3)  # edges of letters have it too
    # The dashed line between the third and the fourth frame, at the height of the last row of reconstructions.
    left, right, _, bottom = extent(has_color(picture, RECONSTRUCTION))
    pitch = (right - left + 1 - WIDTH * ZOOM) / 5
    border = round(left + 3 * pitch)
    around = picture[bottom - HEIGHT * ZOOM : bottom, border - 6 : border + 2]
    assert (around.max(-1) < 100).any(1).mean() > 0.4


def test_gif_has_every_frame_and_the_box_moves(tmp_path: Path) -> None:
    animate_tracks(*moving_box(steps=5, batch=1), tmp_path / "tracks.gif", fps=5)
    with Image.open(tmp_path / "tracks.gif") as image:
        assert image.format == "GIF" and image.info["duration"] == 200 and image.info["loop"] == 0
    pictures = read_gif(tmp_path / "tracks.gif")
    assert len(pictures) == 5
    starts = [extent(has_color(picture, color_of(0), TOLERANCE))[0] for picture in pictures]
    assert np.diff(starts).tolist() == [8, 8, 8, 8]  # two pixels of the frame


def test_gif_shows_a_grid_of_input_and_reconstruction(tmp_path: Path) -> None:
    animate_tracks(*moving_box(steps=2, batch=5, ids=()), tmp_path / "tracks.gif", sequences=4)
    for picture in read_gif(tmp_path / "tracks.gif"):
        inputs, reconstructions = (has_color(picture, color, TOLERANCE) for color in (INPUT, RECONSTRUCTION))
        assert inputs.sum() == reconstructions.sum() == 4 * HEIGHT * WIDTH * 4**2
        # The first row has three inputs, each with its reconstruction to the right; the second row has one.
        first, last = (inputs[row] * 1 + reconstructions[row] * 2 for row in (80, -1))
        assert [int(kind) for kind, _ in groupby(first) if kind] == [1, 2, 1, 2, 1, 2]
        assert [int(kind) for kind, _ in groupby(last) if kind] == [1, 2]


def test_gif_keeps_identical_frames(tmp_path: Path) -> None:
    """Pillow merges identical images; the frame number above them makes each image different."""
    animate_tracks(*moving_box(steps=12, batch=1, ids=()), tmp_path / "tracks.gif")
    assert len(read_gif(tmp_path / "tracks.gif")) == 12


@pytest.mark.parametrize(("fps", "milliseconds"), [(0.002, 500_000), (5.0, 200), (60.0, 20), (100.0, 10)])
def test_gif_has_the_nearest_delay(tmp_path: Path, fps: float, milliseconds: int) -> None:
    animate_tracks(*moving_box(steps=2, batch=1, ids=()), tmp_path / "tracks.gif", fps=fps)
    with Image.open(tmp_path / "tracks.gif") as image:
        assert image.info["duration"] == milliseconds


def test_wrong_arguments_leave_no_file(tmp_path: Path) -> None:
    frames, rollout = moving_box()
    png, gif = tmp_path / "a.png", tmp_path / "a.gif"
    two_channels = rollout._replace(image=rollout.image[:, :, :2])
    short = rollout._replace(image=rollout.image[:2])
    for call in (
        lambda: draw_tracks(frames[:, :1], rollout, png),
        lambda: draw_tracks(frames[:, 0], rollout, png),
        lambda: draw_tracks(torch.cat([frames, frames]), rollout, png),
        lambda: draw_tracks(frames[:2], short, png),
        lambda: draw_tracks(frames, rollout, png, columns=0),
        lambda: draw_prediction(frames, rollout, 0, png),
        lambda: draw_prediction(frames, rollout, 5, png),
        lambda: draw_samples(two_channels, png),
        lambda: draw_samples(rollout._replace(image=rollout.image[0]), png),
        lambda: draw_samples(rollout, tmp_path / "a.nonsense"),
        lambda: animate_tracks(frames, rollout, png),
        lambda: animate_tracks(frames[:, :1], rollout, gif),
        lambda: draw_tracks(frames, rollout, tmp_path / "a"),
        *(lambda fps=fps: animate_tracks(frames, rollout, gif, fps=fps) for fps in (0, 0.001, 101, float("nan"))),
    ):
        with pytest.raises(ValueError, match=r"expected|unknown file extension"):
            call()
    assert list(tmp_path.iterdir()) == []
