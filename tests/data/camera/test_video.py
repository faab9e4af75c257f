# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Decoding: of folders and of files; what cannot be decoded is refused by name."""

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pyro_sqair.data.camera.video import ImageFolder, VideoFile, open_recording

cv2 = pytest.importorskip("cv2")


def make_frames(length: int, size: tuple[int, int] = (32, 24)) -> NDArray[np.uint8]:
    """Frames [T, H, W, 3] of random colours in 8-px blocks: the whole is of another colour in each frame."""
    blocks = np.random.default_rng(0).integers(0, 256, (length, size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    return blocks.repeat(8, 1).repeat(8, 2)


def write_images(folder: Path, frames: NDArray[np.uint8], name: str = "frame_{}.png") -> Path:
    folder.mkdir(exist_ok=True)
    for t, frame in enumerate(frames, 1):
        cv2.imwrite(str(folder / name.format(t)), frame)
    return folder


def write_video(path: Path, frames: NDArray[np.uint8]) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12.5, frames.shape[2:0:-1])
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def test_a_folder_gives_its_images_in_natural_order(tmp_path: Path) -> None:
    frames = make_frames(12)
    folder = write_images(tmp_path / "frames", frames)
    (folder / "notes.txt").write_text("not a frame")
    (folder / "._frame_1.png").write_bytes(b"left behind by another system")
    recording = open_recording(folder)
    assert isinstance(recording, ImageFolder)
    assert (recording.size, recording.fps) == ((32, 24), None)
    assert [file.name for file in recording.files] == [f"frame_{t}.png" for t in range(1, 13)]
    np.testing.assert_array_equal(np.stack(list(recording)), frames)  # and so in the order of blue, green, red


@pytest.mark.parametrize("names", [["1.png", "b.png", "10.png"], ["a.png", "a1.png", "a1b2.png", "1a.png"]])
def test_numbers_and_letters_can_be_mixed(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        cv2.imwrite(str(tmp_path / name), make_frames(1)[0])
    assert sorted(file.name for file in ImageFolder(tmp_path).files) == sorted(names)


def test_grey_and_deep_images_become_three_channels_of_bytes(tmp_path: Path) -> None:
    grey = make_frames(1)[0, ..., 0]
    cv2.imwrite(str(tmp_path / "1.png"), grey)
    cv2.imwrite(str(tmp_path / "2.png"), grey.astype(np.uint16) * 257)
    for frame in ImageFolder(tmp_path):
        np.testing.assert_array_equal(frame, grey[..., None].repeat(3, -1))


def test_a_file_gives_all_its_frames_again_and_again(tmp_path: Path) -> None:
    frames = make_frames(9)
    recording = open_recording(write_video(tmp_path / "a.avi", frames))
    assert isinstance(recording, VideoFile)
    assert recording.size == (32, 24)
    assert recording.fps == pytest.approx(12.5)
    first, second = (np.stack(list(recording)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape == frames.shape
    # JPEG halves the resolution of colours and rounds; blocks of random colours differ by 85 on average.
    assert np.abs(first.astype(int) - frames).mean() < 12


def test_a_file_cut_short_says_so(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", make_frames(40, (64, 48)))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.warns(UserWarning, match=r"says that it has 40 frames, but only \d+ could be decoded"):
        number = len(list(VideoFile(path)))
    assert 0 < number < 40


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a video or a folder of images, found nothing at .*gone.mp4"):
        open_recording(tmp_path / "gone.mp4")


@pytest.mark.parametrize("content", [b"", b"This is a letter, not a film.\n" * 100])
def test_a_file_that_is_no_video(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "letter.mp4"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="expected a video that OpenCV can read, got .*letter.mp4"):
        open_recording(path)


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing to see")
    with pytest.raises(ValueError, match="expected a folder with images .*.png.*, found none in"):
        open_recording(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no image"])
@pytest.mark.parametrize("number", [1, 3])
def test_an_image_that_cannot_be_read(tmp_path: Path, content: bytes, number: int) -> None:
    write_images(tmp_path, make_frames(3))
    (tmp_path / f"frame_{number}.png").write_bytes(content)
    with pytest.raises(ValueError, match=f"expected an image that OpenCV can read, got .*frame_{number}.png"):
        list(open_recording(tmp_path))


def test_images_of_different_sizes(tmp_path: Path) -> None:
    write_images(tmp_path, make_frames(3))
    cv2.imwrite(str(tmp_path / "frame_3.png"), make_frames(1, (24, 24))[0])
    with pytest.raises(ValueError, match="one size, 32x24, got 24x24 at .*frame_3.png, as in frame_1.png"):
        list(open_recording(tmp_path))


def test_without_opencv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, make_frames(1))
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"pip install 'pyro_sqair\[video\]'"):
        open_recording(tmp_path)
