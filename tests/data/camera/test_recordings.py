# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""From recordings made here, of which everything is known, to files of sequences; and from a real one."""

import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pyro_sqair.data import ConvertedVideo, SequenceDataset, Sequences, VideoConfig, convert_video
from pyro_sqair.data.camera import recordings as module
from pyro_sqair.data.camera.crop_writer import CropWriter

cv2 = pytest.importorskip("cv2")

WIDTH, HEIGHT, LENGTH = 96, 80, 60
# Pictures are as large as the frames, and what is found is exact: nothing is scaled, smoothed or closed.
EXACT = VideoConfig(num_frames=4, sequences=40, crop=32, size=(WIDTH, HEIGHT), blur=0.0, validation_fraction=0.25)

Boxes = NDArray[np.int64]


def walk(box: tuple[int, int, int, int], step: tuple[int, int], length: int = LENGTH) -> Boxes:
    """Left, top, width, height of something that moves by `step` a frame, [T, 4]."""
    return np.array(box) + np.arange(length)[:, None] * np.array([*step, 0, 0])


WALKERS = {7: walk((2, 4, 7, 12), (1, 0)), 3: walk((80, 60, 6, 10), (-1, 0)), 12: walk((40, -20, 8, 9), (0, 2))}
LEVELS = {7: 5, 3: 235, 12: 10}  # dark, bright, dark, before 60 to 120


def film(walkers: dict[int, Boxes], levels: dict[int, Any], scale: int = 1, noise: float = 0.0) -> NDArray[np.uint8]:
    """Rectangles that walk before a textured scene: blue, green, red, [T, H, W, 3]."""
    rng = np.random.default_rng(0)
    scene = rng.integers(60, 120, (HEIGHT * scale, WIDTH * scale, 1)).repeat(3, -1)
    frames = scene + rng.normal(0.0, noise, (LENGTH, *scene.shape)).round()
    for name, boxes in walkers.items():
        levels_over_time = np.broadcast_to(np.asarray(levels[name]).reshape(-1, 1, 1, 1), (LENGTH, 1, 1, 1))
        for t, (left, top, width, height) in enumerate((boxes * scale).tolist()):
            area = frames[t, max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
            area[:] = levels_over_time[t]
    return frames.clip(0, 255).astype(np.uint8)


def save(folder: Path, frames: NDArray[np.uint8]) -> Path:
    folder.mkdir()
    for t, frame in enumerate(frames, 1):
        cv2.imwrite(str(folder / f"{t}.png"), frame)
    return folder


def save_mot(path: Path, walkers: dict[int, Boxes], scale: int = 1) -> Path:
    """The boxes that touch the frame, as ground truth with classes: the id + 100."""
    path.write_text(
        "".join(
            f"{t + 1},{name},{','.join(str(number * scale) for number in box)},1,{name + 100},1\n"
            for name, boxes in walkers.items()
            for t, box in enumerate(boxes.tolist())
            if 0 < box[0] + box[2] and box[0] < WIDTH and 0 < box[1] + box[3] and box[1] < HEIGHT
        )
    )
    return path


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("film") / "frames", film(WALKERS, LEVELS))


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_mot(tmp_path_factory.mktemp("truth") / "gt.txt", WALKERS)


def read(made: ConvertedVideo) -> list[Sequences]:
    return [SequenceDataset(path).read() for path in (made.train, made.validation) if path is not None]


def drawn(sequences: Sequences, margin: float = 0.0) -> torch.Tensor:
    """The pixels whose middles are in a box, or at most `margin` pixels outside: bool [T, B, H, W]."""
    height, width = sequences.frames.shape[-2:]
    left, top, wide, high = sequences.boxes[..., None, None].unbind(2 + 1)
    x, y = torch.arange(width) + 0.5, torch.arange(height)[:, None] + 0.5
    inside = (x > left - margin) & (x < left + wide + margin) & (y > top - margin) & (y < top + high + margin)
    return (inside & sequences.present[..., None, None]).any(2)


def test_objects_are_bright_on_black_and_fill_their_boxes(recording: Path, truth: Path, tmp_path: Path) -> None:
    made = convert_video(recording, tmp_path / "out.h5", EXACT, truth, progress=False)
    assert made == (tmp_path / "out.h5", tmp_path / "out-val.h5", (30, 10), LENGTH, (WIDTH, HEIGHT))
    heights: set[float] = set()
    for sequences, number in zip(read(made), made.sequences, strict=True):
        assert sequences.frames.shape == (4, number, 1, 32, 32)
        pixels, inside = (sequences.frames[:, :, 0] * 255).round(), drawn(sequences)
        # 255 - v / 2 for v of 5, 10 and 235, a half rounded to even
        assert set(pixels[inside].unique().tolist()) <= {253.0, 250.0, 137.0, 138.0, 252.0}
        assert inside.any(-1).any(-1).float().mean() > 0.9
        left_over = (pixels > 0) & ~inside
        assert left_over.float().mean() < 0.01
        heights.update(sequences.boxes[..., 3][sequences.present].tolist())
    assert heights == {12.0, 10.0, 9.0}  # everybody has been seen


def test_ids_slots_counts_and_classes(recording: Path, truth: Path, tmp_path: Path) -> None:
    made = convert_video(recording, tmp_path / "out.h5", replace(EXACT, frame_step=3), truth, progress=False)
    for sequences in read(made):
        assert torch.equal(sequences.count, sequences.present.sum(-1))
        assert 1 <= sequences.count.amax(0).min() and sequences.count.max() <= 3
        assert torch.equal(sequences.present, sequences.ids != -1)
        for b in range(sequences.labels.shape[0]):
            for m, label in enumerate(sequences.labels[b].tolist()):
                ids = sequences.ids[:, b, m][sequences.present[:, b, m]]
                # One slot, one object, whose class is its id + 100; a slot with a class has been used.
                assert ids.unique().tolist() == ([] if label == -1 else [label - 100])
                moved = sequences.boxes[:, b, m, :2][sequences.present[:, b, m]].diff(dim=0)
                step = {7: [3.0, 0.0], 3: [-3.0, 0.0], 12: [0.0, 6.0], -101: None}[label - 100]
                assert all(row == step for row in moved.tolist())


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_boxes_agree_with_what_is_seen_at_the_defaults(scale: int, tmp_path: Path) -> None:
    walkers = {7: walk((30, 30, 8, 14), (0, 0)) + np.array([[t % 20, t % 11, 0, 0] for t in range(LENGTH)])}
    source = save(tmp_path / "frames", film(walkers, {7: 10}, scale, noise=2.0))
    truth = save_mot(tmp_path / "gt.txt", walkers, 5)  # drawn on images of five times the size
    config = VideoConfig(
        sequences=20, size=(WIDTH, HEIGHT), crop=48, crops="tracked", validation_fraction=0.0,
        ground_truth_size=(WIDTH * 5, HEIGHT * 5),
    )  # fmt: skip
    made = convert_video(source, tmp_path / "out.h5", config, truth, progress=False)
    (sequences,) = read(made)
    checked = 0
    for t in range(5):
        for b in range(20):
            if not sequences.present[t, b, 0]:
                continue  # it jumps, and may be outside
            lit = sequences.frames[t, b, 0] > 0.4
            rows, columns = lit.any(1).nonzero(), lit.any(0).nonzero()
            seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            left, top, width, height = sequences.boxes[t, b, 0].tolist()
            box = [max(left, 0), max(top, 0), min(left + width, 48), min(top + height, 48)]
            np.testing.assert_allclose(torch.stack(seen).numpy(), box, atol=1.0)
            checked += 1
    assert checked > 80
    counted = sequences.present.any(-1)[..., None, None]
    assert not sequences.frames[:, :, 0][counted & ~drawn(sequences, margin=1.0)].any()


def test_no_frame_is_on_both_sides_and_none_is_skipped(tmp_path: Path) -> None:
    """The level of the only object, which is always in sight, tells the number of the frame."""
    levels = 130 + 2 * np.arange(LENGTH)
    source = save(tmp_path / "frames", film({1: walk((20, 4, 7, 12), (1, 0))}, {1: levels}))
    config = replace(
        EXACT, crop=80, size=(WIDTH, HEIGHT), contrast=1.0, threshold=5.0, noise=0.0, frame_step=2, stride=3
    )
    seen: list[set[int]] = []
    for sequences in read(convert_video(source, tmp_path / "out.h5", config, progress=False)):
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
def test_a_seed_fixes_both_files(
    background: str, tmp_path: Path, assert_same: Callable[[Sequences, Sequences], None]
) -> None:
    source = save(tmp_path / "frames", film(WALKERS, LEVELS, noise=4.0))
    made = [
        read(
            convert_video(
                source,
                tmp_path / f"{number}.h5",
                replace(EXACT, background=background, warm_up=20, sequences=12, seed=seed),
                progress=False,
            )
        )
        for number, seed in enumerate((0, 0, 1))
    ]
    for first, again, other in zip(*made, strict=True):
        assert_same(first, again)
        assert not torch.equal(first.frames, other.frames)


def test_without_ground_truth_nobody_is_known_but_something_moves(recording: Path, tmp_path: Path) -> None:
    config = replace(EXACT, min_objects=1)
    for sequences in read(convert_video(recording, tmp_path / "out.h5", config, progress=False)):
        assert (sequences.count == -1).all() and not sequences.present.any()
        assert sequences.labels.shape[1] == 1 and (sequences.labels == -1).all() and (sequences.ids == -1).all()
        assert (sequences.frames.flatten(2).amax(-1).amax(0) > 0.5).all()


def test_a_video_file_is_as_good_as_a_folder(tmp_path: Path) -> None:
    frames = film(WALKERS, LEVELS)
    path = tmp_path / "a.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (WIDTH, HEIGHT))
    for frame in frames:
        writer.write(frame)
    writer.release()
    truth = save_mot(tmp_path / "gt.txt", WALKERS)
    made = convert_video(path, tmp_path / "out.h5", replace(EXACT, threshold=40.0), truth, progress=False)
    (sequences, _), inside = read(made), None
    inside = drawn(sequences)
    assert sequences.frames[:, :, 0][inside].mean() > 0.7  # of 250 / 255 where dark, 137 / 255 where bright
    assert sequences.frames[:, :, 0][~drawn(sequences, margin=2.0)].mean() < 0.01
    parameters = SequenceDataset(made.train).layout.parameters
    assert parameters["fps"] == pytest.approx(25.0)


def test_the_file_says_where_it_comes_from(recording: Path, truth: Path, tmp_path: Path) -> None:
    made = convert_video(recording, tmp_path / "out.h5", replace(EXACT, seed=5), truth, progress=False)
    for path, part in ((made.train, "train"), (made.validation, "validation")):
        data = SequenceDataset(path)
        assert (data.layout.generator, data.layout.seed) == ("video", 5)
        expected = {"part": part, "source": "frames", "video_frames": LENGTH, "ground_truth": "gt.txt", "crop": 32}
        assert data.layout.parameters.items() >= expected.items()


def test_colours(tmp_path: Path) -> None:
    frames = film({}, {})
    for t in range(LENGTH):
        frames[t, 30:50, t : t + 12] = (10, 20, 250)  # blue, green, red
    source = save(tmp_path / "frames", frames)
    (train, _) = read(
        convert_video(source, tmp_path / "out.h5", replace(EXACT, colour=True, contrast=1.0), progress=False)
    )
    assert train.frames.shape[2] == 3
    lit = train.frames.movedim(2, -1)[train.frames.amax(2) > 0.9]
    assert ((lit * 255).round() == torch.tensor([5.0, 235.0, 245.0])).all()


def test_one_file_where_no_validation_is_asked_for(recording: Path, tmp_path: Path) -> None:
    made = convert_video(recording, tmp_path / "out.h5", replace(EXACT, validation_fraction=0.0), progress=False)
    assert made.validation is None and made.sequences == (40,)
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5"]


def test_too_few_crops_are_said(recording: Path, tmp_path: Path) -> None:
    config = replace(EXACT, crop=80, size=(96, 80), stride=10, sequences=400)  # 17 places, 5 and 2 times
    with pytest.warns(UserWarning, match="expected .* random crops of 80 px .*found only") as warned:
        made = convert_video(recording, tmp_path / "out.h5", config, progress=False)
    assert made.sequences == (17 * 5, 17 * 2) and len(warned) == 2
    assert [sequences.labels.shape[0] for sequences in read(made)] == list(made.sequences)


@pytest.mark.parametrize("background", ["median", "mog2"])
def test_memory_is_bounded(background: str, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more frames are alive at any time than are sampled, and a few that pass."""
    most = 0
    opened = module.open_recording(recording)

    class Watched(np.ndarray):
        """An array of a class of its own."""

    class Long:
        path, size, fps = opened.path, opened.size, None

        def __iter__(self) -> Iterator[NDArray[np.uint8]]:
            nonlocal most
            for _ in range(5):
                for frame in opened:
                    watched = frame.view(Watched)
                    references.append(weakref.ref(watched, lambda _: gone.append(1)))
                    most = max(most, len(references) - len(gone))
                    yield watched

    references: list[weakref.ref[Any]] = []
    gone: list[int] = []
    monkeypatch.setattr(module, "open_recording", lambda _: Long())
    convert_video("x", tmp_path / "out.h5", replace(EXACT, samples=8, background=background, warm_up=9), progress=False)
    assert len(references) > 800  # two passes of 300, and most of a third
    assert most <= (8 if background == "median" else 0) + 4


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "short": ({"config": replace(EXACT, num_frames=61)}, ValueError, "a video of at least 61 frames"),
    "short part": ({"config": replace(EXACT, num_frames=16)}, ValueError, "at least 16 frames for validation, got 15"),
    "large crop": ({"config": replace(EXACT, crop=81)}, ValueError, "a crop of at most 80 px"),
    "no video": ({"source": "gone.mp4"}, FileNotFoundError, "a video or a folder of images"),
    "no truth": ({"truth": "gone.txt"}, FileNotFoundError, "a MOTChallenge ground truth"),
    "malformed truth": ({"mot": "1,1,1\n"}, ValueError, "expected at least 6 numbers .* in line 1 of"),
    "long truth": ({"mot": "61,1,5,5,5,5\n"}, ValueError, "frames 1 to 60, those of the video, got frame 61"),
    "large truth": ({"mot": "1,1,500,5,5,5\n"}, ValueError, "every box to touch the image of 96x80 px"),
    "other aspect": (
        {"config": replace(EXACT, ground_truth_size=(96, 96))}, ValueError, "aspect ratio, 96x80, got one on 96x96",
    ),
    "nobody": ({"mot": "1,1,5,5,5,5\n"}, ValueError, "1 to 3 objects in frames 46 to 60, for validation, found none"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_and_nothing_is_left(case: str, recording: Path, truth: Path, tmp_path: Path) -> None:
    given, error, message = BAD[case]
    source, ground_truth = given.get("source", recording), given.get("truth", truth)
    if "mot" in given:
        ground_truth = tmp_path / "gt.txt"
        ground_truth.write_text(given["mot"])
    out = tmp_path / "out"
    with pytest.raises(error, match=message):
        convert_video(source, out / "a.h5", given.get("config", EXACT), ground_truth, progress=False)
    assert not out.exists() or list(out.iterdir()) == []


@pytest.mark.parametrize("name", ["a.h5", "a-val.h5"])
def test_nothing_is_overwritten_unless_told(name: str, recording: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(FileExistsError, match=name):
        convert_video("gone.mp4", tmp_path / "a.h5", EXACT, progress=False)  # before anything is looked at
    assert (tmp_path / name).read_text() == "precious"
    made = convert_video(recording, tmp_path / "a.h5", EXACT, overwrite=True, progress=False)
    assert [sequences.labels.shape[0] for sequences in read(made)] == [30, 10]


def test_the_recording_is_never_overwritten(recording: Path, truth: Path, tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    video.write_bytes(b"precious")
    for source, ground_truth in ((video, None), (recording, video)):
        with pytest.raises(ValueError, match="to write to another file than is read, got .*a.mp4"):
            convert_video(source, video, EXACT, ground_truth, overwrite=True, progress=False)
    assert video.read_bytes() == b"precious"


def test_an_interrupted_conversion_leaves_what_was_there(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = CropWriter.add

    def interrupted(self: CropWriter, t: int, picture: NDArray[np.uint8]) -> None:
        if t == 50:
            raise KeyboardInterrupt
        add(self, t, picture)

    monkeypatch.setattr(CropWriter, "add", interrupted)
    (tmp_path / "a-val.h5").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        convert_video(recording, tmp_path / "a.h5", EXACT, overwrite=True, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["a-val.h5"]
    assert (tmp_path / "a-val.h5").read_text() == "old"


def test_progress_is_shown(recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert_video(recording, tmp_path / "a.h5", EXACT, progress=True)
    shown = capsys.readouterr().err
    assert all(what in shown for what in ("looking through", "finding what moves", "writing sequences"))
