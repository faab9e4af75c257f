# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""MOTChallenge files: reading, refusal of malformed lines, and scaling to a video."""

from pathlib import Path

import numpy as np
import pytest

from pyro_sqair.data.camera.mot import read_mot, scale_tracks

GOOD = "1,4,10,20,30,40,1,-1,-1,-1\n"


def write(folder: Path, text: str, info: str | None = None) -> Path:
    path = folder / "gt.txt"
    path.write_text(text)
    if info is not None:
        (folder / "seqinfo.ini").write_text(info)
    return path


def info(length: int = 10) -> str:
    return f"[Sequence]\nname=X\nseqLength={length}\nimWidth=200\nimHeight=100\nimExt=.jpg\n"


def test_lines_in_any_order(tmp_path: Path) -> None:
    tracks = read_mot(write(tmp_path, "2,7,1.5,-2,3,4,1,-1,-1,-1\n\n1, 9, 5,6,7,8,1,-1,-1,-1\n1,2,0,0,1e1,1\n"))
    assert tracks.frames.tolist() == [0, 0, 1]
    assert tracks.ids.tolist() == [2, 9, 7]
    assert tracks.boxes.tolist() == [[0, 0, 10, 1], [5, 6, 7, 8], [1.5, -2, 3, 4]]
    assert tracks.labels.tolist() == [0, 0, 0]  # of ten columns, the last three are a position
    assert (tracks.size, tracks.length) == (None, None)


def test_the_flag_in_the_seventh_column_counts_only_in_files_with_classes(tmp_path: Path) -> None:
    tracks = read_mot(write(tmp_path, "1,1,5,5,9,9,1,1,0.8\n1,2,5,5,9,9,0,12,0.8\n1,3,5,5,9,9,1,7,1\n"))
    assert (tracks.ids.tolist(), tracks.labels.tolist()) == ([1, 3], [1, 7])
    assert read_mot(write(tmp_path, "1,1,5,5,9,9,0,-1,-1,-1\n")).ids.tolist() == [1]


def test_seqinfo_is_read_beside_the_file_and_beside_its_folder(tmp_path: Path) -> None:
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
        ("1,4,10,20,30", "expected at least 6 numbers .*, got '1,4,10,20,30'"),
        ("1,4,nan,20,30,40", "expected finite numbers"),
        ("1,4,10,inf,30,40", "expected finite numbers"),
        ("0,4,10,20,30,40", "expected an integer frame from 1 and an integer id from 0"),
        ("1.5,4,10,20,30,40", "expected an integer frame"),
        ("1,-1,10,20,30,40", "expected an integer frame from 1 and an integer id from 0"),
        ("1,4,10,20,0,40", "expected a box of positive width and height, .*, got '1,4,10,20,0,40'"),
        ("1,4,10,20,30,-4", "expected a box of positive width and height"),
        ("1,4,10,20,30,1e308", "expected a box .* with numbers up to 1,000,000 pixels, got '1,4,10,20,30,1e308'"),
        ("1e30,4,10,20,30,40", r"expected an integer frame .* both up to 2\^53, got '1e30,4,10,20,30,40'"),
        ("1,1e19,10,20,30,40", r"expected an integer frame .* both up to 2\^53, got '1,1e19,10,20,30,40'"),
        *((f"1,5,10,20,30,40,1,{bad},1", r"expected an integer class from -1 to 2\^53") for bad in (1e30, -2, 0.5)),
        ("1,5,1,1,1,1\n1,5,1,1,1,1", "one box for each object and frame, got frame 1, id 5"),
        ("\x00\xff", "expected comma-separated numbers"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "gt.txt"
    path.write_text(f"{GOOD}\n{line}\n", encoding="latin-1")
    with pytest.raises(ValueError, match=f"{message}.* in lines? 3 .*gt.txt"):
        read_mot(path)


@pytest.mark.parametrize("text", ["", "\n\n", "1,4,10,20,30,40,0,1,1\n"])
def test_files_without_boxes_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(FileNotFoundError, match="gt.txt"):
        read_mot(tmp_path / "gt.txt")
    with pytest.raises(ValueError, match="expected boxes in .*gt.txt, got none"):
        read_mot(write(tmp_path, text))


@pytest.mark.parametrize("text", ["seqLength=10\n", "[Sequence]\nseqLength=ten\n", "[Other]\nseqLength=10\n", info(-1)])
def test_a_malformed_seqinfo_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"expected imWidth, imHeight and seqLength under \[Sequence\]"):
        read_mot(write(tmp_path, GOOD, text))


def test_boxes_are_scaled_to_the_frames(tmp_path: Path) -> None:
    tracks = read_mot(write(tmp_path, GOOD, info()))
    scaled = scale_tracks(tracks, 10, video_size=(400, 200), size=(50, 50))
    assert (scaled.boxes.tolist(), scaled.size) == ([[2.5, 10.0, 7.5, 20.0]], (50, 50))
    without = scale_tracks(tracks._replace(size=None), 10, video_size=(400, 200), size=(100, 50))
    assert without.boxes.tolist() == [[2.5, 5.0, 7.5, 10.0]]


@pytest.mark.parametrize(
    ("text", "length", "size", "message"),
    [
        ("11,4,10,20,30,40\n", None, None, "for the 10 frames of the video, got frames up to 11 and seqLength=None"),
        (GOOD, 12, None, "for the 10 frames of the video, got frames up to 1 and seqLength=12"),
        (GOOD, None, (400, 300), "aspect ratio, 200x100, got 400x300"),
        ("2,5,-29,99,30,40\n2,6,201,20,30,40\n", None, None, r"1 outside, the first in frame 2, id 6: \[201.* set gr"),
        *((f"1,4,{box}\n", None, None, "expected every box to touch the image of 200x100 px, got 1 outside")
          for box in ("200,20,30,40", "10,100,30,40", "-30,20,30,40", "10,-40,30,40")),
    ],
)  # fmt: skip
def test_ground_truth_of_another_video_is_refused(
    tmp_path: Path, text: str, length: int | None, size: tuple[int, int] | None, message: str
) -> None:
    tracks = read_mot(write(tmp_path, text))
    with pytest.raises(ValueError, match=message):
        scale_tracks(tracks._replace(length=length, size=size), 10, (200, 100), (100, 50))
    scale_tracks(tracks._replace(boxes=tracks.boxes * 0 + 10), length or 11, (200, 100), (100, 50))


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
