# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from pyro_sqair.viz import color_of, draw_prediction, draw_samples, draw_tracks
from pyro_sqair.viz.mosaic import EMPTY, Mosaic
from pyro_sqair.viz.pictures import Outline, as_outlines, as_pictures

INPUT, RECONSTRUCTION = "#004080", "#408000"  # of the made-up scene; words are grey
ZOOM = 3  # for frames 50 pixels wide


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def pixels_of(picture: np.ndarray, color: str) -> np.ndarray:
    """Where a picture, [H, W, 3], has exactly that colour."""
    return (picture == np.round(255 * np.array(to_rgb(color)))).all(-1)


def extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    """First and last column, first and last row where a mask holds."""
    rows, columns = np.nonzero(mask)
    return columns.min(), columns.max(), rows.min(), rows.max()


def test_mosaic_is_exact_to_the_pixel() -> None:
    noise = torch.randint(256, (7, 9, 3), dtype=torch.uint8).numpy()
    for width in range(100, 140):
        mosaic = Mosaic(width, 60, zoom=4)
        mosaic.frame(noise, left=11, top=13)
        rendered = mosaic.render()
        assert rendered.shape == (60, width, 3)
        np.testing.assert_array_equal(rendered[13 : 13 + 28 : 4, 11 : 11 + 36 : 4], noise)
        np.testing.assert_array_equal(rendered[16 : 13 + 28 : 4, 14 : 11 + 36 : 4], noise)


def test_mosaic_cuts_a_box_off_at_its_frame() -> None:
    mosaic = Mosaic(100, 100, zoom=4)
    frame = np.zeros((10, 10, 3), dtype=np.uint8)
    mosaic.frame(frame, 20, 20, [Outline((5.0, -3.0, 20.0, 8.0), color_of(0))])
    assert extent(pixels_of(mosaic.render(), color_of(0))) == (38, 59, 20, 41)


def test_box_has_its_colour_at_its_place(tmp_path: Path, moving_box: Callable) -> None:
    frames, rollout = moving_box(steps=1, batch=1, ids=(3, 1))
    draw_tracks(frames, rollout, tmp_path / "tracks.png")
    picture = read(tmp_path / "tracks.png")
    left, _, top, bottom = extent(pixels_of(picture, RECONSTRUCTION))
    assert bottom - top + 1 == 40 * ZOOM
    for name, box_top in ((3, 6), (1, 18)):
        first, last, upper, lower = extent(pixels_of(picture, color_of(name)))
        # The line, a pixel of the frame wide, is centred on the edge of the box (10, box_top, 16, 8).
        assert abs(first - (left + 10 * ZOOM - 1.5)) <= 1 and abs(last - (left + 26 * ZOOM + 0.5)) <= 1
        assert abs(upper - (top + box_top * ZOOM - 1.5)) <= 1
        assert abs(lower - (top + (box_top + 8) * ZOOM + 0.5)) <= 1
    assert pixels_of(picture, RECONSTRUCTION)[top + 10 * ZOOM, left + 18 * ZOOM]  # nothing inside the box
    for other in set(range(10)) - {1, 3}:
        assert not pixels_of(picture, color_of(other)).any()


def test_input_is_above_and_without_boxes(tmp_path: Path, moving_box: Callable) -> None:
    frames, rollout = moving_box(steps=3, batch=2)
    draw_tracks(frames, rollout, tmp_path / "tracks.png")
    picture = read(tmp_path / "tracks.png")
    assert pixels_of(picture, INPUT).sum() == 3 * 2 * 40 * 50 * ZOOM**2  # so no box hides any of it
    above, below = (extent(pixels_of(picture, color))[2] for color in (INPUT, RECONSTRUCTION))
    assert 40 * ZOOM < below - above < 45 * ZOOM


def test_at_most_so_many_sequences_and_frames(tmp_path: Path, moving_box: Callable) -> None:
    frames, rollout = moving_box(steps=9, batch=5, ids=())
    draw_tracks(frames, rollout, tmp_path / "tracks.png", sequences=2, columns=4)
    assert pixels_of(read(tmp_path / "tracks.png"), RECONSTRUCTION).sum() == 2 * 4 * 40 * 50 * ZOOM**2


def test_columns_are_spread_from_first_to_last(tmp_path: Path, moving_box: Callable) -> None:
    _, rollout = moving_box(steps=9, batch=1, ids=())
    levels = torch.linspace(0.2, 1.0, 9)
    rollout = rollout._replace(image=levels.view(9, 1, 1, 1, 1).expand_as(rollout.image))
    draw_samples(rollout, tmp_path / "samples.png", columns=3)
    row = read(tmp_path / "samples.png")[-10, :, 0]
    shown = [value for value in (levels * 255).round().tolist() if (row == value).sum() >= 50 * ZOOM]
    assert shown == (levels[[0, 4, 8]] * 255).round().tolist()


def test_grey_frames_stay_grey(tmp_path: Path, moving_box: Callable) -> None:
    frames, rollout = moving_box(steps=2, batch=1, channels=1, ids=())
    draw_tracks(frames, rollout, tmp_path / "tracks.png")
    picture = read(tmp_path / "tracks.png")
    assert (picture == picture[..., :1]).all()
    assert (pixels_of(picture, "#808080").sum(1) >= 2 * 50 * ZOOM).sum() == 40 * ZOOM


def test_prediction_goes_on_after_the_frames_and_marks_the_border(tmp_path: Path, moving_box: Callable) -> None:
    frames, rollout = moving_box(steps=6, batch=2, ids=())
    draw_prediction(frames[:4], rollout, 3, tmp_path / "prediction.png")
    picture = read(tmp_path / "prediction.png")
    cell = 40 * 50 * ZOOM**2
    assert pixels_of(picture, RECONSTRUCTION).sum() == 2 * 6 * cell
    assert pixels_of(picture, EMPTY).sum() == pytest.approx(2 * 2 * cell, rel=1e-3)  # letters have it at their edge
    # The ink between third and fourth frame, at the height of the last row of reconstructions.
    left, right, _, bottom = extent(pixels_of(picture, RECONSTRUCTION))
    pitch = (right - left + 1 - 50 * ZOOM) / 5
    border = round(left + 3 * pitch)
    strip = picture[bottom - 40 * ZOOM : bottom, border - 6 : border + 2]
    assert (strip.max(-1) < 100).any(1).mean() > 0.4  # dashed


def test_samples_have_one_row_for_each_sequence(tmp_path: Path, moving_box: Callable) -> None:
    _, rollout = moving_box(steps=3, batch=4, ids=())
    draw_samples(rollout, tmp_path / "samples.png", sequences=3)
    picture = read(tmp_path / "samples.png")
    assert pixels_of(picture, RECONSTRUCTION).sum() == 3 * 3 * 40 * 50 * ZOOM**2


def test_pictures_are_clipped_and_grey_becomes_colour() -> None:
    frames = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0]).view(1, 1, 1, 1, 5)
    expected = np.array([0, 0, 128, 255, 255], dtype=np.uint8)[None, None, None, :, None].repeat(3, -1)
    np.testing.assert_array_equal(as_pictures(frames), expected)


def test_outlines_are_those_of_present_objects(moving_box: Callable) -> None:
    _, rollout = moving_box(steps=2, batch=3, ids=(4,))
    outlines = as_outlines(rollout.objects, (40, 50))
    assert [len(boxes) for sequences in outlines for boxes in sequences] == [1] * 6
    box, color = outlines[1][2][0]
    assert box == pytest.approx((12.0, 6.0, 16.0, 8.0), abs=1e-4)
    assert color == color_of(4)


def test_wrong_shapes(tmp_path: Path, moving_box: Callable) -> None:
    frames, rollout = moving_box()
    path = tmp_path / "a.png"
    two_channels = rollout._replace(image=rollout.image[:, :, :2])
    short = rollout._replace(image=rollout.image[:2])
    for call in (
        lambda: draw_tracks(frames[:, :1], rollout, path),
        lambda: draw_tracks(frames[:, 0], rollout, path),
        lambda: draw_tracks(torch.cat([frames, frames]), rollout, path),
        lambda: draw_tracks(frames[:2], short, path),
        lambda: draw_tracks(frames, rollout, path, columns=0),
        lambda: draw_prediction(frames, rollout, 0, path),
        lambda: draw_prediction(frames, rollout, 5, path),
        lambda: draw_samples(two_channels, path),
        lambda: draw_samples(rollout._replace(image=rollout.image[0]), path),
        lambda: draw_samples(rollout, tmp_path / "a.nonsense"),
        lambda: Mosaic(0, 10, 1),
    ):
        with pytest.raises(ValueError, match=r"expected|unknown file extension"):
            call()
    assert list(tmp_path.iterdir()) == []
