# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image, ImageSequence

from pyro_sqair.viz import animate_tracks, color_of

INPUT, RECONSTRUCTION = "#004080", "#408000"  # of the made-up scene; words are grey


def read(path: Path) -> np.ndarray:
    """All frames of a GIF, [T, H, W, 3]."""
    with Image.open(path) as image:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])


def near(pictures: np.ndarray, color: str) -> np.ndarray:
    """Where a colour is, up to what a palette of 256 colours costs."""
    return (np.abs(pictures - 255 * np.array(to_rgb(color))) < 8).all(-1)


def test_gif_has_every_frame_and_the_box_moves(tmp_path: Path, moving_box: Callable) -> None:
    frames, rollout = moving_box(steps=5, batch=1)
    animate_tracks(frames, rollout, tmp_path / "tracks.gif", zoom=4, fps=5)
    with Image.open(tmp_path / "tracks.gif") as image:
        assert image.format == "GIF" and image.info["duration"] == 200 and image.info["loop"] == 0
    pictures = read(tmp_path / "tracks.gif")
    assert len(pictures) == 5
    starts = [np.nonzero(near(picture, color_of(0)))[1].min() for picture in pictures]
    assert np.diff(starts).tolist() == [8, 8, 8, 8]  # two pixels of the frame


def test_gif_shows_a_grid_of_input_and_reconstruction(tmp_path: Path, moving_box: Callable) -> None:
    frames, rollout = moving_box(steps=2, batch=5, ids=())
    animate_tracks(frames, rollout, tmp_path / "tracks.gif", sequences=4, columns=3, zoom=2)
    for picture in read(tmp_path / "tracks.gif"):
        assert near(picture, INPUT).sum() == near(picture, RECONSTRUCTION).sum() == 4 * 40 * 50 * 4
        # The first row has three inputs, each with its reconstruction to the right; the second row has one.
        first, last = (near(picture, INPUT)[row] * 1 + near(picture, RECONSTRUCTION)[row] * 2 for row in (40, -1))
        assert [int(kind) for kind, _ in groupby(first) if kind] == [1, 2, 1, 2, 1, 2]
        assert [int(kind) for kind, _ in groupby(last) if kind] == [1, 2]


def test_still_video_keeps_its_frames(tmp_path: Path, moving_box: Callable) -> None:
    # Pillow would merge frames that are the same; the frame number sees to it that none are.
    frames, rollout = moving_box(steps=12, batch=1, ids=())
    animate_tracks(frames, rollout, tmp_path / "tracks.gif", zoom=1)
    assert len(read(tmp_path / "tracks.gif")) == 12


def test_wrong_arguments(tmp_path: Path, moving_box: Callable) -> None:
    frames, rollout = moving_box()
    for call in (
        lambda: animate_tracks(frames, rollout, tmp_path / "tracks.png"),
        lambda: animate_tracks(frames[:, :1], rollout, tmp_path / "tracks.gif"),
        lambda: animate_tracks(frames, rollout, tmp_path / "tracks.gif", columns=0),
        lambda: animate_tracks(frames, rollout, tmp_path / "tracks.gif", fps=0),
    ):
        with pytest.raises(ValueError, match="expected"):
            call()
    assert list(tmp_path.iterdir()) == []
