# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Conversion of synthetic recordings, of which everything is known, and of a real one."""

import shutil
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pyro_sqair.data import SequenceDataset, Sequences, VideoConfig, convert_video
from pyro_sqair.data.camera import frames as frames_module
from pyro_sqair.data.camera import video as module
from pyro_sqair.data.camera.video import ConvertedVideo

cv2 = pytest.importorskip("cv2")
from synthetic_recording import HEIGHT, LENGTH, LEVELS, WALKERS, WIDTH, film, save, save_mot, walk  # noqa: E402

# Pictures have the size of the frames and masks are exact: no scaling, blurring or closing.
EXACT = VideoConfig(num_frames=4, sequences=40, crop=32, size=(WIDTH, HEIGHT), blur=0.0, validation_fraction=0.25)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("film") / "frames", film(WALKERS, LEVELS))


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_mot(tmp_path_factory.mktemp("truth") / "gt.txt", WALKERS)


def convert(source: Path, out: Path, config: VideoConfig = EXACT, truth: Path | None = None) -> list[Sequences]:
    return read(convert_video(source, out / "out.h5", config, truth, progress=False))


def read(made: ConvertedVideo) -> list[Sequences]:
    return [SequenceDataset(path).read() for path in (made.train, made.validation) if path is not None]


def in_boxes(sequences: Sequences, margin: float = 0.0) -> torch.Tensor:
    """The pixels whose centres are in a box, or at most `margin` pixels outside: bool [T, B, H, W]."""
    height, width = sequences.frames.shape[-2:]
    left, top, wide, high = sequences.boxes[..., None, None].unbind(3)
    x, y = torch.arange(width) + 0.5, torch.arange(height)[:, None] + 0.5
    inside = (x > left - margin) & (x < left + wide + margin) & (y > top - margin) & (y < top + high + margin)
    return (inside & sequences.present[..., None, None]).any(2)


@pytest.mark.parametrize("step", [1, 3])
def test_pixels_and_ground_truth_of_known_objects(step: int, recording: Path, truth: Path, tmp_path: Path) -> None:
    config = replace(EXACT, seed=5, frame_step=step)
    made = convert_video(recording, tmp_path / "out.h5", config, truth, progress=False)
    assert made == (tmp_path / "out.h5", tmp_path / "out-val.h5", (30, 10), LENGTH, (WIDTH, HEIGHT))
    heights: set[float] = set()
    for sequences, number in zip(read(made), made.sequences, strict=True):
        assert sequences.frames.shape == (4, number, 1, 32, 32)
        pixels, inside = (sequences.frames[:, :, 0] * 255).round(), in_boxes(sequences)
        # 255 - v / 2 for v of 5, 10 and 235, a half rounded to even
        assert set(pixels[inside].unique().tolist()) <= {253.0, 250.0, 137.0, 138.0, 252.0}
        assert inside.any(-1).any(-1).float().mean() > 0.9 or step > 1  # objects leave
        assert ((pixels > 0) & ~inside).float().mean() < 0.01
        heights.update(sequences.boxes[..., 3][sequences.present].tolist())
        assert torch.equal(sequences.count, sequences.present.sum(-1))
        assert 1 <= sequences.count.amax(0).min() and sequences.count.max() <= 3
        assert torch.equal(sequences.present, sequences.ids != -1)
        for b, m in np.ndindex(*sequences.labels.shape):
            label, present = int(sequences.labels[b, m]), sequences.present[:, b, m]
            # One object per slot, with its id + 100 as class; a slot with a class is used.
            assert sequences.ids[:, b, m][present].unique().tolist() == ([] if label == -1 else [label - 100])
            moved = {7: [step, 0], 3: [-step, 0], 12: [0, 2 * step], -101: None}[label - 100]
            assert all(row == moved for row in sequences.boxes[:, b, m, :2][present].diff(dim=0).tolist())
    assert heights == {12.0, 10.0, 9.0}  # every object is present somewhere
    for path, part in ((made.train, "train"), (made.validation, "validation")):
        data = SequenceDataset(path)
        assert (data.layout.generator, data.layout.seed) == ("video", 5)
        expected = {"part": part, "source": "frames", "video_frames": LENGTH, "ground_truth": "gt.txt", "crop": 32}
        assert data.layout.parameters.items() >= expected.items()


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_boxes_agree_with_the_pixels_at_the_defaults(scale: int, tmp_path: Path) -> None:
    walkers = {7: walk((30, 30, 8, 14), (0, 0)) + np.array([[t % 20, t % 11, 0, 0] for t in range(LENGTH)])}
    source = save(tmp_path / "frames", film(walkers, {7: 10}, scale, noise=2.0))
    truth = save_mot(tmp_path / "gt.txt", walkers, 5)  # annotated on images of five times the size
    config = VideoConfig(
        sequences=20, size=(WIDTH, HEIGHT), crop=48, crops="tracked", validation_fraction=0.0,
        ground_truth_size=(WIDTH * 5, HEIGHT * 5),
    )  # fmt: skip
    (sequences,) = convert(source, tmp_path, config, truth)
    assert sequences.present[..., 0].sum() > 80  # the object jumps, and is outside some crops
    for t, b in sequences.present[..., 0].nonzero().tolist():
        lit = sequences.frames[t, b, 0] > 0.4
        rows, columns = lit.any(1).nonzero(), lit.any(0).nonzero()
        seen = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        left, top, width, height = sequences.boxes[t, b, 0].tolist()
        box = [max(left, 0), max(top, 0), min(left + width, 48), min(top + height, 48)]
        np.testing.assert_allclose(seen.numpy(), box, atol=1.0)
    dark = sequences.present.any(-1)[..., None, None] & ~in_boxes(sequences, margin=1.0)
    assert not sequences.frames[:, :, 0][dark].any()


def test_no_frame_is_in_both_parts_and_none_is_skipped(tmp_path: Path) -> None:
    """The level of the only object, which is always in the crop, encodes the number of the frame."""
    levels = 130 + 2 * np.arange(LENGTH)
    source = save(tmp_path / "frames", film({1: walk((20, 4, 7, 12), (1, 0))}, {1: levels}))
    config = replace(EXACT, crop=80, contrast=1.0, threshold=5.0, noise=0.0, frame_step=2, stride=3, colour=True)
    seen: list[set[int]] = []
    for sequences in convert(source, tmp_path, config):
        assert sequences.frames.shape[2] == 3
        levels_seen = 255 - (sequences.frames.flatten(2).amax(-1) * 255).round()
        numbers = ((levels_seen - 130) / 2).long()  # [T, B]
        assert (numbers.diff(dim=0) == 2).all()
        assert (numbers[0].diff() >= 0).all()  # in the order of time
        assert ((numbers[0] - numbers[0, 0]) % 3 == 0).all()
        seen.append(set(numbers.flatten().tolist()))
    train, validation = seen
    assert max(train) < 45 <= min(validation)  # the last quarter of 60 frames
    assert min(train) == 0 and max(validation) <= 59
    assert train.isdisjoint(validation)


@pytest.mark.parametrize("background", ["median", "mog2", "knn"])
def test_a_seed_fixes_both_files(background: Any, tmp_path: Path, assert_same: Callable[..., None]) -> None:
    source = save(tmp_path / "frames", film(WALKERS, LEVELS, noise=4.0))
    configs = [replace(EXACT, background=background, sequences=12, seed=seed) for seed in (0, 0, 1)]
    made = [convert(source, tmp_path / str(number), config) for number, config in enumerate(configs)]
    for first, again, other in zip(*made, strict=True):
        assert_same(first, again)
        assert not torch.equal(first.frames, other.frames)
        assert first.labels.shape == (len(first.labels), 1) and (first.count == -1).all() and not first.present.any()
        assert (first.frames.flatten(2).amax(-1).amax(0) > 0.5).all()  # the crops show foreground


def test_a_video_file_without_validation(truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (WIDTH, HEIGHT))
    for frame in film(WALKERS, LEVELS):
        writer.write(frame)
    writer.release()
    config = replace(EXACT, threshold=40.0, validation_fraction=0.0)
    made = convert_video(tmp_path / "a.avi", tmp_path / "out.h5", config, truth)
    assert made == (tmp_path / "out.h5", None, (40,), LENGTH, (WIDTH, HEIGHT))
    assert {path.name for path in tmp_path.iterdir()} == {"a.avi", "out.h5"}
    (sequences,) = read(made)
    pixels = sequences.frames[:, :, 0]
    assert pixels[in_boxes(sequences)].mean() > 0.7  # of 250 / 255 where dark, 137 / 255 where bright
    assert pixels[~in_boxes(sequences, margin=2.0)].mean() < 0.01
    shown = capsys.readouterr().err
    assert all(what in shown for what in ("reading video", "extracting foreground", "writing train"))


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "short": ({"config": replace(EXACT, num_frames=61)}, ValueError, "at least 61 frames in the train part, got 45"),
    "no video": ({"source": "gone.mp4"}, FileNotFoundError, "a video or a folder of images"),
    "no truth": ({"truth": "gone.txt"}, FileNotFoundError, "gone.txt"),
    "large truth": ({"mot": "1,1,500,5,5,5\n"}, ValueError, "every box to touch the image of 96x80 px"),
    "no object": ({"mot": "1,1,5,5,5,5\n"}, ValueError, "objects in frames 46 to 60, for validation, found only 0"),
}


@pytest.mark.filterwarnings("ignore:expected 30 random crops")
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_and_no_file_is_left(case: str, recording: Path, truth: Path, tmp_path: Path) -> None:
    given, error, message = BAD[case]
    ground_truth = given.get("truth", truth)
    if "mot" in given:
        ground_truth = tmp_path / "gt.txt"
        ground_truth.write_text(given["mot"])
    out = tmp_path / "out"
    with pytest.raises(error, match=message):
        convert(given.get("source", recording), out, given.get("config", EXACT), ground_truth)
    assert not out.exists() or list(out.iterdir()) == []


def test_frames_that_do_not_fit_on_the_disk_are_refused(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3 * LENGTH * WIDTH * HEIGHT - 1))
    convert(recording, tmp_path / "grey")
    with pytest.raises(ValueError, match=r"at most 0.0 GB, the space left in .*, got 0.0 GB: 60 frames of 96x80 px"):
        convert(recording, tmp_path / "colour", replace(EXACT, colour=True))
    assert list((tmp_path / "colour").iterdir()) == []


def test_files_are_overwritten_only_on_request_and_inputs_never(recording: Path, tmp_path: Path) -> None:
    for name in ("out-val.h5", "out.h5"):
        (tmp_path / name).write_text("precious")
        with pytest.raises(FileExistsError, match=name):
            convert(Path("gone.mp4"), tmp_path)  # before the video is opened
        (tmp_path / "out-val.h5").unlink(missing_ok=True)
    for source, ground_truth in ((tmp_path / "out.h5", None), (recording, tmp_path / "out.h5")):
        with pytest.raises(ValueError, match="an output file other than the input files, got .*out.h5"):
            convert_video(source, tmp_path / "out.h5", EXACT, ground_truth, overwrite=True, progress=False)
    assert (tmp_path / "out.h5").read_text() == "precious"
    made = convert_video(recording, tmp_path / "out.h5", EXACT, overwrite=True, progress=False)
    assert [sequences.labels.shape[0] for sequences in read(made)] == [30, 10]


def test_an_interrupt_changes_no_file(recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(pictures: Any, crops: list[Any], *arguments: Any) -> Sequences:
        if crops[-1].start >= 45:  # the training file is written
            raise KeyboardInterrupt
        return cut(pictures, crops, *arguments)

    cut = module.cut_crops
    monkeypatch.setattr(module, "cut_crops", interrupted)
    (tmp_path / "a-val.h5").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        convert_video(recording, tmp_path / "a.h5", EXACT, overwrite=True, progress=False)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a-val.h5": "old"}


def test_memory_and_disk_are_bounded_with_two_decodings(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, decoded, used = frames_module.read_frames, 0, 0

    def long_video(path: Path) -> Any:
        nonlocal decoded
        for _ in range(40):
            for frame in decode(path):
                decoded += 1
                yield frame

    def measured(*arguments: Any) -> Any:
        nonlocal used
        used = max(used, arguments[0].nbytes)
        return cut(*arguments)

    cut = module.cut_crops
    monkeypatch.setattr(frames_module, "read_frames", long_video)
    monkeypatch.setattr(module, "cut_crops", measured)
    tracemalloc.start()
    convert(recording, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert decoded == 2 * 40 * LENGTH
    assert used == 40 * LENGTH * WIDTH * HEIGHT  # one byte per pixel
    assert peak < 0.5 * 40 * LENGTH * WIDTH * HEIGHT * 3  # half of the frames


def test_without_opencv(recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"pip install 'pyro_sqair\[video\]'"):
        convert(recording, tmp_path)


@pytest.mark.parametrize(
    "background", ["median", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mog2", "knn"))]
)
def test_pets(background: Any, shared_data: Path, tmp_path: Path) -> None:
    """People on a street, PETS 2009 S2.L1, against independent ground truth."""
    folder = shared_data / "pets09_s2l1"
    config = VideoConfig(sequences=400, background=background)
    made = convert_video(folder / "vtest.avi", tmp_path / "a.h5", config, folder / "gt.txt", progress=False)
    assert made[2:] == ((360, 40), 795, (240, 180))
    for sequences in read(made):
        pixels, inside = sequences.frames[:, :, 0], in_boxes(sequences)
        assert pixels[inside].mean() > 20 * pixels[~inside].mean()  # measured: 70 or more
        assert pixels[inside].mean() > 0.4  # measured: 0.45 to 0.54; a box is larger than the person in it
        assert (pixels[~inside] == 0).float().mean() > 0.98
        assert pixels[pixels > 0].mean() > 0.7
        assert sequences.count.max() == 3 and sequences.count.amax(0).min() == 1
        lit = 0  # almost every present person has foreground pixels
        for slot in range(sequences.present.shape[-1]):
            shown = sequences.present & (torch.arange(sequences.present.shape[-1]) == slot)
            lit += int((in_boxes(sequences._replace(present=shown)) & (pixels > 0)).flatten(2).any(-1).sum())
        assert lit > (0.99 if background == "median" else 0.9) * sequences.present.sum()
