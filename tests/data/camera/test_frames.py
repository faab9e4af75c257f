# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Decoding of files and folders, and background subtraction of scenes whose background is known."""

import math
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pyro_sqair.data import VideoConfig
from pyro_sqair.data.camera import frames as module
from pyro_sqair.data.camera.frames import (
    adaptive_subtractor,
    clean_mask,
    extract_foreground,
    median_subtractor,
    read_frames,
    sample_frames,
)

cv2 = pytest.importorskip("cv2")

WIDTH, HEIGHT, SIDE = 80, 70, 16
EXACT = VideoConfig(noise=0.0, min_area=1.0)


def make_frames(length: int, size: tuple[int, int] = (32, 24)) -> NDArray[np.uint8]:
    """Frames [T, H, W, 3] of 8-px blocks in random colours."""
    blocks = np.random.default_rng(0).integers(0, 256, (length, size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    return blocks.repeat(8, 1).repeat(8, 2)


def write_images(folder: Path, frames: NDArray[np.uint8]) -> Path:
    folder.mkdir(exist_ok=True)
    for t, frame in enumerate(frames, 1):
        cv2.imwrite(str(folder / f"frame_{t}.png"), frame)
    return folder


def write_video(path: Path, frames: NDArray[np.uint8]) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12.5, frames.shape[2:0:-1])
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def film(length: int = 40, level: int = 230, noise: float = 0.0) -> tuple[Any, Any, Any]:
    """A square that crosses a textured scene: frames [T, H, W, 3], scene [H, W, 3], mask of the square [T, H, W].

    The square covers each pixel in at most 8 of 32 frames.
    """
    rng = np.random.default_rng(0)
    scene = rng.integers(60, 120, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    frames = scene + rng.normal(0.0, noise, (length, HEIGHT, WIDTH, 3)).round()
    mask = np.zeros(frames.shape[:3], np.bool_)
    for t in range(length):
        left = (2 * t) % (WIDTH - SIDE)
        mask[t, 20 : 20 + SIDE, left : left + SIDE] = True
    frames[mask] = level
    return frames.clip(0, 255).astype(np.uint8), scene, mask


@pytest.mark.parametrize(
    "names", [[f"frame_{t}.png" for t in range(1, 13)], ["1a.png", "2.png", "10.png", "a1.png", "a1b2.png", "a.png"]]
)
def test_a_folder_is_read_in_natural_order(tmp_path: Path, names: list[str]) -> None:
    frames = make_frames(len(names))
    for name, frame in zip(names, frames, strict=True):
        cv2.imwrite(str(tmp_path / name), frame)
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / "._frame_1.png").write_bytes(b"hidden file of another system")
    np.testing.assert_array_equal(np.stack(list(read_frames(tmp_path))), frames)


def test_grey_and_16_bit_images_become_three_channels_of_bytes(tmp_path: Path) -> None:
    grey = make_frames(1)[0, ..., 0]
    cv2.imwrite(str(tmp_path / "1.png"), grey)
    cv2.imwrite(str(tmp_path / "2.png"), grey.astype(np.uint16) * 257)
    for frame in read_frames(tmp_path):
        np.testing.assert_array_equal(frame, grey[..., None].repeat(3, -1))


def test_a_video_file_gives_all_its_frames_and_a_warning_if_truncated(tmp_path: Path) -> None:
    frames = make_frames(40, (64, 48))
    path = write_video(tmp_path / "a.avi", frames)
    found = np.stack(list(read_frames(path)))
    assert found.shape == frames.shape
    # JPEG halves the resolution of colours and rounds; blocks of random colours differ by 85 on average.
    assert np.abs(found.astype(int) - frames).mean() < 12
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.warns(UserWarning, match=r"expected 40 frames in .*a.avi, decoded \d+: it may be truncated"):
        assert 0 < len(list(read_frames(path))) < 40


@pytest.mark.parametrize("content", ["", "This is neither a video nor an image.\n" * 100])
def test_unreadable_input_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(FileNotFoundError, match="expected a video or a folder of images, found nothing at .*gone.mp4"):
        next(read_frames(tmp_path / "gone.mp4"))
    (tmp_path / "letter.mp4").write_text(content)
    with pytest.raises(ValueError, match="expected a video that OpenCV can read, got .*letter.mp4"):
        next(read_frames(tmp_path / "letter.mp4"))
    with pytest.raises(ValueError, match="expected a folder with images .*.png.*, found none in"):
        next(read_frames(tmp_path))
    for number in (3, 1):
        write_images(tmp_path, make_frames(3))
        (tmp_path / f"frame_{number}.png").write_text(content)
        with pytest.raises(ValueError, match=f"expected an image that OpenCV can read, got .*frame_{number}.png"):
            list(read_frames(tmp_path))


@pytest.mark.parametrize("name", ["notes.txt", "gt.txt", "a.nfo"])
def test_a_text_file_is_not_a_video(tmp_path: Path, name: str) -> None:
    """FFmpeg draws text files with these suffixes as pictures of 640x400 pixels and more."""
    (tmp_path / name).write_text("1,4,10,20,30,40,1,-1,-1,-1\n" * 500)
    with pytest.raises(ValueError, match=f"expected a video or a folder of images, got a text file: .*{name}"):
        next(read_frames(tmp_path / name))


def test_an_image_with_more_pixels_than_opencv_reads_is_refused(tmp_path: Path) -> None:
    data = bytearray(cv2.imencode(".png", np.zeros((4, 4), np.uint8))[1].tobytes())
    data[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "1.png").write_bytes(data)
    with pytest.raises(ValueError, match="expected an image that OpenCV can read, got .*1.png"):
        next(read_frames(tmp_path))


def test_images_of_different_sizes_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path, make_frames(3))
    cv2.imwrite(str(tmp_path / "frame_3.png"), make_frames(1, (24, 24))[0])
    with pytest.raises(ValueError, match="expected frames of one size, 32x24, got 24x24 at .*frame_3.png"):
        list(read_frames(tmp_path))


@pytest.mark.parametrize("length", [40, 128, 129, 256, 257, 400])
def test_the_background_is_the_median_of_at_most_128_evenly_spaced_frames(length: int) -> None:
    frames = np.random.default_rng(1).integers(0, 256, (length, 7, 5, 3)).astype(np.uint8)
    step = next(step for step in (1, 2, 4) if math.ceil(length / step) <= 128)
    sample = frames[::step].astype(float)
    median = np.median(sample, 0).round()
    deviation = np.median(np.abs(sample - median), 0).max(-1)
    found, number = sample_frames(iter(frames))
    assert number == length
    np.testing.assert_array_equal(found, sample)
    subtract = median_subtractor(found, replace(EXACT, noise=0.7), 0.0)
    for frame in frames:
        np.testing.assert_array_equal(
            subtract(frame), np.abs(frame - median).max(-1) > (30.0 + 0.7 * deviation).astype("f4")
        )


@pytest.mark.parametrize("level", [0, 255])
def test_dark_and_bright_objects_are_found_exactly(level: int) -> None:
    frames, _, square = film(level=level)
    subtract = median_subtractor(frames, replace(EXACT, threshold=50.0), 0.0)
    np.testing.assert_array_equal(np.stack([subtract(frame) for frame in frames]), square)


def test_the_threshold_applies_to_each_channel_and_is_itself_background() -> None:
    frames = np.full((6, 1, 7, 3), 100, np.uint8)
    for channel in range(3):
        frames[0, 0, channel, channel], frames[0, 0, 3 + channel, channel] = 131, 130
    assert median_subtractor(frames, EXACT, 0.0)(frames[0]).tolist() == [[True] * 3 + [False] * 4]


def test_blur_removes_single_pixels() -> None:
    frames = np.full((3, 9, 9, 3), 100, np.uint8)
    frames[0, 4, 4] = 200
    assert median_subtractor(frames, EXACT, 0.0)(frames[0]).sum() == 1
    assert not median_subtractor(frames, EXACT, 1.0)(frames[0]).any()  # 100 / (2 pi) = 16 < 30


@pytest.mark.parametrize("kind", ["mog2", "knn"])
@pytest.mark.parametrize("level", [0, 250])
def test_adaptive_models_find_moving_objects_without_shadows(
    kind: Any, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WARM_UP", 64)
    rng = np.random.default_rng(2)
    frames, scene, square = film(80, level, noise=2.0)
    frames[:64] = (scene + rng.normal(0.0, 2.0, (64, *scene.shape)).round()).astype(np.uint8)
    frames[64:, 50:60] = scene[50:60] * 0.7
    subtract = adaptive_subtractor(frames, replace(EXACT, background=kind), 0.0)
    masks = np.stack([subtract(frame) for frame in frames])[64:]
    assert (masks & square[64:]).sum((1, 2)).min() > 0.95 * SIDE**2
    assert (masks & ~square[64:]).mean((1, 2)).max() < 0.01


def test_specks_and_lines_are_removed_and_gaps_closed() -> None:
    body = np.zeros((40, 50), np.bool_)
    body[10:30, 20:32] = True
    dirty = body.copy()
    dirty[3, 4] = dirty[35, :] = True  # a speck, and a rope across the image
    dirty[20, 24:26] = False  # a gap
    cleaned, boxes = clean_mask(dirty, scale=2.0, min_area=10.0)
    inner = cv2.erode(body.astype(np.uint8), np.ones((3, 3))).astype(bool)
    assert cleaned[inner].all() and not cleaned[~body].any()
    assert boxes.tolist() == [[20.0, 10.0, 12.0, 20.0]]


def test_thin_limbs_are_kept_at_the_scale_of_the_picture_and_small_components_removed() -> None:
    mask = np.zeros((30, 40), np.bool_)
    mask[2:18, 2] = True  # 16
    mask[20:25, 20:24] = True  # 20
    for min_area, left in ((16.0, [2.0, 20.0]), (17.0, [20.0]), (20.0, [20.0]), (21.0, [])):
        cleaned, boxes = clean_mask(mask, scale=1.0, min_area=min_area)
        assert boxes[:, 0].tolist() == left
        expected = [mask & False, mask & (np.arange(40) > 10), mask][len(left)]
        np.testing.assert_array_equal(cleaned, expected)
    assert clean_mask(mask, scale=2.0, min_area=1.0)[1][:, 0].tolist() == [20.0]


@pytest.mark.parametrize(("contrast", "expected"), [(1.0, [255, 155, 0]), (0.5, [255, 205, 127]), (0.0, [255] * 3)])
def test_pictures_are_negative_on_black_in_grey_or_rgb(contrast: float, expected: list[int]) -> None:
    frames = np.full((5, 20, 70, 3), 50, np.uint8)
    patches = [slice(10 * n, 10 * n + 8) for n in (0, 2, 4)]
    for patch, level in zip(patches, (0, 100, 255), strict=True):
        frames[0, 5:15, patch] = level
    frames[0, 5:15, 60:68] = (10, 60, 200)  # blue, green, red
    config = VideoConfig(contrast=contrast, blur=0.0)
    grey, boxes = next(extract_foreground(frames, frames, (70, 20), config))
    assert grey.dtype == np.uint8 and grey.shape == (20, 70, 1)
    assert boxes.tolist() == [[left, 5.0, 8.0, 10.0] for left in (0.0, 20.0, 40.0, 60.0)]
    colour, _ = next(extract_foreground(frames, frames, (70, 20), replace(config, colour=True)))
    expected_picture = np.zeros((20, 70, 3), np.uint8)
    for patch, level in zip(patches, expected, strict=True):
        expected_picture[5:15, patch] = level
    np.testing.assert_array_equal(grey[:, :60, 0], expected_picture[:, :60, 0])
    expected_picture[5:15, 60:68] = 255 - np.rint(contrast * np.array([200, 60, 10]))
    np.testing.assert_array_equal(colour, expected_picture)


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize(("wide", "high"), [(1, 1), (2, 2), (2, 1)])
def test_pictures_and_boxes_are_scaled(wide: int, high: int, colour: bool) -> None:
    frames = np.full((3, 30 * high, 40 * wide, 3), 155, np.uint8)
    frames[0, 8 * high : 20 * high, 10 * wide : 18 * wide] = 55
    config = replace(EXACT, blur=0.0, colour=colour)
    picture, boxes = next(extract_foreground(frames, frames, (40, 30), config))
    assert boxes.tolist() == [[10.0, 8.0, 8.0, 12.0]]
    assert picture.shape == (30, 40, 3 if colour else 1)
    # 255 - 0.5 * 55 is 227 or 228; opening at twice the size removes a quarter of the pixels in the corners.
    inside = picture[8:20, 10:18].copy()
    assert np.isin(inside[1:-1], (227, 228)).all() and np.isin(inside[:, 1:-1], (227, 228)).all()
    picture[8:20, 10:18] = 0
    assert not picture.any()


def test_min_area_is_in_pixels_of_the_picture() -> None:
    frames = np.zeros((3, 60, 80, 3), np.uint8)
    frames[0, 10:18, 10:18] = 255  # 4 x 4 in the picture, less four corners of a quarter of a pixel: 15
    for min_area, number in ((14.9, 1), (15.1, 0)):
        config = replace(EXACT, blur=0.0, min_area=min_area)
        assert len(next(extract_foreground(frames, frames, (40, 30), config))[1]) == number
