# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Ground truth is read as it stands, and refused by line where it cannot be meant."""

from pathlib import Path

import numpy as np
import pytest

from pyro_sqair.data import read_mot
from pyro_sqair.data.camera.mot import Tracks, scale_tracks

GOOD = "1,4,10,20,30,40,1,-1,-1,-1\n"


def write(folder: Path, text: str, info: str | None = None) -> Path:
    path = folder / "gt.txt"
    path.write_text(text)
    if info is not None:
        (folder / "seqinfo.ini").write_text(info)
    return path


def info(width: int = 200, height: int = 100, length: int = 10) -> str:
    return f"[Sequence]\nname=X\nseqLength={length}\nimWidth={width}\nimHeight={height}\nimExt=.jpg\n"


def test_lines_in_any_order(tmp_path: Path) -> None:
    tracks = read_mot(write(tmp_path, "2,7,1.5,-2,3,4,1,-1,-1,-1\n\n1, 9, 5,6,7,8,1,-1,-1,-1\n1,2,0,0,1e1,1\n"))
    assert tracks.frames.tolist() == [0, 0, 1]
    assert tracks.ids.tolist() == [2, 9, 7]
    assert tracks.boxes.tolist() == [[0, 0, 10, 1], [5, 6, 7, 8], [1.5, -2, 3, 4]]
    assert tracks.labels.tolist() == [0, 0, 0]  # ten columns: the last three are a place, not a class
    assert (tracks.size, tracks.length) == (None, None)


def test_classes_and_lines_that_do_not_count(tmp_path: Path) -> None:
    tracks = read_mot(write(tmp_path, "1,1,5,5,9,9,1,1,0.8\n1,2,5,5,9,9,0,12,0.8\n1,3,5,5,9,9,1,7,1\n"))
    assert tracks.ids.tolist() == [1, 3]
    assert tracks.labels.tolist() == [1, 7]


def test_people_hard_to_see_count(tmp_path: Path) -> None:
    assert read_mot(write(tmp_path, "1,1,5,5,9,9,0,-1,-1,-1\n")).ids.tolist() == [1]


def test_the_size_is_read_beside_the_file_and_above_its_folder(tmp_path: Path) -> None:
    assert read_mot(write(tmp_path, GOOD, info()))[-2:] == ((200, 100), 10)
    for name, expected in (("gt", ((200, 100), 10)), ("other", (None, None))):
        (tmp_path / name).mkdir()
        assert read_mot(write(tmp_path / name, GOOD))[-2:] == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("frame,id,left,top,width,height", "expected comma-separated numbers, got 'frame,id"),
        ("1 4 10 20 30 40 1", "expected comma-separated numbers"),
        ("1,4,10,20,30,", "expected comma-separated numbers"),
        ("1,4,10,20,30", "expected at least 6 numbers .*, got 5: '1,4,10,20,30'"),
        ("1,4,nan,20,30,40", "expected finite numbers"),
        ("1,4,10,inf,30,40", "expected finite numbers"),
        ("0,4,10,20,30,40", "expected a whole frame from 1 and a whole id from 0"),
        ("1.5,4,10,20,30,40", "expected a whole frame"),
        ("1,-1,10,20,30,40", "expected a whole frame from 1 and a whole id from 0"),
        ("1,4,10,20,0,40", "expected a box of positive width and height, got 0 x 40"),
        ("1,4,10,20,30,-4", "expected a box of positive width and height, got 30 x -4"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"{message}.* in line 3 of .*gt.txt"):
        read_mot(write(tmp_path, f"{GOOD}\n{line}\n"))


def test_two_boxes_of_one_object_in_one_frame(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one box for each object and frame, got frame 1, id 4 in lines 1 and 3 of"):
        read_mot(write(tmp_path, GOOD + "1,5,1,1,1,1\n" + GOOD))


@pytest.mark.parametrize("text", ["", "\n\n", "1,4,10,20,30,40,0,1,1\n"])
def test_no_box_at_all(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="expected boxes in .*gt.txt, got none"):
        read_mot(write(tmp_path, text))


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="found no file at .*gt.txt"):
        read_mot(tmp_path / "gt.txt")
    (tmp_path / "gt.txt").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match="expected a text file of comma-separated numbers"):
        read_mot(tmp_path / "gt.txt")


@pytest.mark.parametrize("text", ["seqLength=10\n", "[Sequence]\nseqLength=ten\n", "[Other]\nseqLength=10\n"])
def test_a_malformed_seqinfo(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"expected imWidth, imHeight and seqLength under \[Sequence\]"):
        read_mot(write(tmp_path, GOOD, text))


def test_boxes_are_scaled_to_the_frames(tmp_path: Path) -> None:
    tracks = read_mot(write(tmp_path, GOOD, info(200, 100, 10)))
    scaled = scale_tracks(tracks, 10, video_size=(400, 200), size=(50, 50))
    assert scaled.boxes.tolist() == [[2.5, 10.0, 7.5, 20.0]]
    assert scaled.size == (50, 50)
    without = scale_tracks(tracks._replace(size=None), 10, video_size=(400, 200), size=(100, 50))
    assert without.boxes.tolist() == [[2.5, 5.0, 7.5, 10.0]]


def fits(tracks: Tracks, num_frames: int = 10, video_size: tuple[int, int] = (200, 100)) -> None:
    scale_tracks(tracks, num_frames, video_size, (100, 50))


def test_ground_truth_of_another_length(tmp_path: Path) -> None:
    tracks = read_mot(write(tmp_path, "11,4,10,20,30,40\n"))
    fits(tracks, 11)
    with pytest.raises(ValueError, match="expected ground truth for frames 1 to 10, those of the video, got frame 11"):
        fits(tracks)
    with pytest.raises(ValueError, match="for the 10 frames of the video, got seqLength=12 in the seqinfo.ini"):
        fits(read_mot(write(tmp_path, GOOD, info(length=12))))


def test_ground_truth_of_another_size(tmp_path: Path) -> None:
    tracks = read_mot(write(tmp_path, "1,4,10,20,30,40\n2,5,-29,99,30,40\n2,6,201,20,30,40\n"))
    with pytest.raises(
        ValueError, match=r"got 1 outside, the first in frame 2, id 6: \[201.* ground_truth_size=\(width"
    ):
        fits(tracks)
    fits(tracks._replace(size=(400, 200)))
    with pytest.raises(ValueError, match="aspect ratio, 200x100, got one on 400x300"):
        fits(tracks._replace(size=(400, 300)))


@pytest.mark.parametrize("box", ["200,20,30,40", "10,100,30,40", "-30,20,30,40", "10,-40,30,40"])
def test_a_box_that_only_touches_the_border_is_outside(tmp_path: Path, box: str) -> None:
    with pytest.raises(ValueError, match="expected every box to touch the image of 200x100 px, got 1 outside"):
        fits(read_mot(write(tmp_path, f"1,4,{box}\n")))


def test_pets_agrees_with_an_independent_reading(shared_data: Path) -> None:
    folder = shared_data / "pets09_s2l1"
    tracks = read_mot(folder / "gt.txt")
    assert (tracks.size, tracks.length) == ((768, 576), 795)
    assert len(tracks.frames) == 4650 and len(set(tracks.ids.tolist())) == 19
    expected = np.load(folder / "pets09_s2l1_gray_192x144.npz")["boxes"]
    expected = expected[np.lexsort((expected[:, 1], expected[:, 0]))]
    scaled = scale_tracks(tracks, 795, (480, 360), (192, 144))
    np.testing.assert_array_equal(np.stack([scaled.frames, scaled.ids], -1), expected[:, :2])
    np.testing.assert_allclose(scaled.boxes, expected[:, 2:], atol=1e-4)
