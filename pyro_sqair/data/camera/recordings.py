# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""A static camera's video as files of sequences (Kosiorek et al. 2018, Section 4.2 and Appendix E)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pyro_sqair.data.camera.background import Background, Frame, FrameSample, MedianBackground, OnlineBackground
from pyro_sqair.data.camera.crop_writer import CropWriter
from pyro_sqair.data.camera.crops import MIN_VISIBLE, Crop, box_rows, crop_tracks, plan_crops
from pyro_sqair.data.camera.foreground import Foreground
from pyro_sqair.data.camera.mot import Tracks, read_mot, scale_tracks
from pyro_sqair.data.camera.video import Recording, open_recording
from pyro_sqair.data.camera.video_config import VideoConfig
from pyro_sqair.data.files.writer import SequenceWriter, check_free

_PARTS = ("train", "validation")


class ConvertedVideo(NamedTuple):
    """The files made of a recording.

    Attributes:
        train: sequences of its beginning.
        validation: sequences of its end; None if none were asked for.
        sequences: how many each of them holds, training first.
        num_frames: frames in the recording.
        frame_size: (width, height) that they were scaled to.
    """

    train: Path
    validation: Path | None
    sequences: tuple[int, ...]
    num_frames: int
    frame_size: tuple[int, int]


def convert_video(
    source_path: str | os.PathLike[str],
    out_path: str | os.PathLike[str],
    config: VideoConfig | None = None,
    ground_truth: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> ConvertedVideo:
    """Makes sequences of what moves before a static camera, in crops, bright on black.

    Goes over the recording twice, or three times without ground truth, and keeps no more of it in memory than
    `config.samples` frames and the crops begun. The background is found from the whole recording; no frame's
    *sequences* are in both files. In each, sequences are in the order of time.

    Args:
        source_path: a video file, or a folder of images.
        out_path: the file for training, `OUT.h5`; the one for validation is `OUT-val.h5` beside it.
        config: how; by default as in the paper.
        ground_truth: a MOTChallenge file of boxes. Without one, nobody knows who is there: `count` is -1 throughout,
            and no object is `present` in the one slot there is.
        overwrite: whether files that are there may be replaced.
        progress: whether to show how far it is.

    Returns:
        What was made.

    Raises:
        FileNotFoundError: if the recording or the ground truth is not there.
        FileExistsError: if a file to be made is there, and `overwrite` is False.
        ValueError: if the recording cannot be read, is too short, or its frames too small; if the ground truth is
            malformed or does not fit it; or if no crop shows what was asked for. No file is left then.
        ImportError: if OpenCV is missing.
    """
    config = config or VideoConfig()
    paths = [Path(out_path)]
    if config.validation_fraction > 0:
        paths.append(paths[0].with_name(f"{paths[0].stem}-val{paths[0].suffix}"))
    for path in paths:
        check_free(path, overwrite)
        for given in (source_path, ground_truth):
            if given is not None and path.resolve() == Path(given).resolve():
                raise ValueError(f"expected to write to another file than is read, got {path} for both")
    recording = open_recording(source_path)
    size = config.scaled_size(recording.size)
    tracks = None if ground_truth is None else read_mot(ground_truth)
    foreground = Foreground(recording.size, size, config.min_area, config.contrast, config.colour)

    footage = _survey(recording, foreground, config, progress)
    parts = config.parts(footage.total)
    if tracks is None:
        boxes = [foreground.cut(frame, footage.background).pieces for frame in footage.frames("finding what moves")]
    else:
        tracks = tracks._replace(size=config.ground_truth_size or tracks.size)
        tracks = scale_tracks(tracks, footage.total, recording.size, size)
        boxes = [tracks.boxes[box_rows(tracks, t)] for t in range(footage.total)]
    plans = _plans(boxes, parts, size, config)
    _write(paths, plans, footage, tracks, config, overwrite)
    validation = paths[1] if len(paths) > 1 else None
    return ConvertedVideo(paths[0], validation, tuple(len(plan) for plan in plans), footage.total, size)


class _Footage(NamedTuple):
    """A recording that has been gone through once; total is the number of its frames."""

    recording: Recording
    foreground: Foreground
    background: Background
    total: int
    progress: bool

    def frames(self, what: str) -> Iterator[Frame]:
        """Goes over it once more: the frames, shrunk, the background model ready for each."""
        self.background.start(self.foreground.shrink(frame) for frame in self.recording)
        for frame in _shown(self.recording, what, self.total, self.progress):
            yield self.foreground.shrink(frame)


def _survey(recording: Recording, foreground: Foreground, config: VideoConfig, progress: bool) -> _Footage:
    """Models the background, and counts the frames, which only decoding them all tells for sure."""
    sample = FrameSample(config.samples)
    total = 0
    for frame in _shown(recording, "looking through", None, progress):
        if config.background == "median":
            sample.add(foreground.shrink(frame))
        total += 1
    blur = config.blur * foreground.scale
    background: Background
    if config.background == "median":
        background = MedianBackground(sample.frames, config.threshold, config.noise, blur)
    else:
        background = OnlineBackground(config.background, config.warm_up, blur)
    return _Footage(recording, foreground, background, total, progress)


def _shown(recording: Recording, what: str, total: int | None, progress: bool) -> Iterator[Frame]:
    yield from tqdm(recording, total=total, unit="frame", disable=not progress, dynamic_ncols=True, desc=what)


def _plans(
    boxes: list[NDArray[np.float64]], parts: list[range], size: tuple[int, int], config: VideoConfig
) -> list[list[Crop]]:
    """The crops of each file.

    Raises:
        ValueError: if there are none for one.
    """
    plans = [
        plan_crops(boxes, part, wanted, size, config, np.random.default_rng([config.seed, number]))
        for number, (part, wanted) in enumerate(zip(parts, config.shares(), strict=True))
    ]
    most = "any number of" if config.max_objects is None else config.max_objects
    described = [
        f"{config.crops} crops of {config.crop} px with {config.min_objects} to {most} objects in frames "
        f"{part.start + 1} to {part.stop}, for {name}"
        for part, name in zip(parts, _PARTS, strict=False)
    ]
    for plan, what in zip(plans, described, strict=True):
        if not plan:
            raise ValueError(f"expected {what}, found none")
    for plan, what, wanted in zip(plans, described, config.shares(), strict=True):
        if len(plan) < wanted:
            warnings.warn(f"expected {wanted} {what}, found only {len(plan)}", stacklevel=3)
    return plans


def _write(
    paths: list[Path],
    plans: list[list[Crop]],
    footage: _Footage,
    tracks: Tracks | None,
    config: VideoConfig,
    overwrite: bool,
) -> None:
    """Goes over the recording for the last time and writes all files, which appear together at the end."""
    truth = [None if tracks is None else [crop_tracks(tracks, crop, config) for crop in plan] for plan in plans]
    most = max((len(crop.labels) for part in truth for crop in part or []), default=1)
    with ExitStack() as stack:
        files = [
            stack.enter_context(
                SequenceWriter(
                    path,
                    num_frames=config.num_frames,
                    image_size=(config.crop, config.crop),
                    channels=3 if config.colour else 1,
                    max_objects=max(1, most),
                    generator="video",
                    seed=config.seed,
                    parameters=_parameters(footage, tracks, config) | {"part": part},
                    overwrite=overwrite,
                )
            )
            for path, part in zip(paths, _PARTS, strict=False)
        ]
        writers = [
            CropWriter(file, plan, crops, config, max(1, most))
            for file, plan, crops in zip(files, plans, truth, strict=True)
        ]
        for t, frame in enumerate(footage.frames("writing sequences")):
            takers = [writer for writer in writers if writer.takes(t)]
            if takers or footage.background.adapts:
                picture = footage.foreground.cut(frame, footage.background).picture
            for writer in takers:
                writer.add(t, picture)
            if not any(writers):
                break
        if any(writers):
            raise ValueError(
                f"expected {footage.total} frames, as before, got fewer: {footage.recording.path} has changed"
            )
        for writer in writers:
            writer.flush()


def _parameters(footage: _Footage, tracks: Tracks | None, config: VideoConfig) -> dict[str, Any]:
    return asdict(config) | {
        "source": footage.recording.path.name,
        "fps": footage.recording.fps,
        "video_frames": footage.total,
        "video_size": footage.recording.size,
        "frame_size": footage.foreground.size,
        "ground_truth": None if tracks is None else tracks.path.name,
        "min_visible": MIN_VISIBLE,
    }
