# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Conversion of a static camera's video to sequences (Kosiorek et al. 2018, Section 4.2 and Appendix E)."""

from __future__ import annotations

import math
import os
import shutil
from contextlib import ExitStack
from dataclasses import asdict
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from pyro_sqair.data.camera.crops import MIN_VISIBLE, cut_crops, plan_crops, present_rows
from pyro_sqair.data.camera.frames import Recording, extract_foreground, read_frames, sample_frames
from pyro_sqair.data.camera.mot import Tracks, read_mot, scale_tracks
from pyro_sqair.data.camera.video_config import VideoConfig
from pyro_sqair.data.files.writer import SequenceWriter, check_free
from pyro_sqair.data.sequences import require

_BATCH = 64  # sequences written at a time


class ConvertedVideo(NamedTuple):
    """Result of `convert_video`.

    Attributes:
        train: file with the training sequences.
        validation: file with the validation sequences; None if `validation_fraction` is 0.
        sequences: number of sequences in each file.
        num_frames: number of frames of the video.
        frame_size: (width, height) of the scaled frames.
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
    """Converts a static camera's video to sequences of its moving objects, in crops, bright on black.

    The video is decoded twice: to estimate the background and to subtract it; its first 500 frames three times for MOG2
    and KNN. An unnamed temporary file in the output folder takes one byte per pixel of a scaled frame, three in colour,
    and is mapped into memory; what must stay in memory is a sample of 128 frames, and the boxes.

    Args:
        source_path: a video file, or a folder of images in the natural order of their names.
        out_path: file for the training sequences, `OUT.h5`; validation sequences go to `OUT-val.h5` beside it. Both
            are in the order of time.
        config: by default as in the paper.
        ground_truth: MOTChallenge file of boxes. Without it `count` is -1 (unknown), and no object is present.
        overwrite: whether to replace existing files.
        progress: whether to show progress bars.

    Raises:
        FileNotFoundError: if the video or the ground truth does not exist.
        FileExistsError: if an output file exists and `overwrite` is False.
        ValueError: if the video is unreadable, too short or too small; if its scaled frames do not fit on the disk; if
            the ground truth is malformed or does not fit the video; or if no crop has the required number of objects.
            No output file is written.
        ImportError: if OpenCV is missing.
    """
    if find_spec("cv2") is None:
        raise ImportError("reading video needs OpenCV (cv2): pip install 'pyro_sqair[video]'")
    config, source, out = config or VideoConfig(), Path(source_path), Path(out_path)
    validation = out.with_name(f"{out.stem}-val{out.suffix}") if config.validation_fraction > 0 else None
    paths = [out] if validation is None else [out, validation]
    for path in paths:
        check_free(path, overwrite)
        different = path.resolve() not in (source.resolve(), Path(ground_truth or source).resolve())
        require(different, "an output file other than the input files", f"{path} for both")
    height, width, _ = next(read_frames(source)).shape
    video_size = width, height
    size = config.scaled_size(video_size)
    tracks = None if ground_truth is None else read_mot(ground_truth)

    out.parent.mkdir(parents=True, exist_ok=True)
    bar = {"disable": not progress, "dynamic_ncols": True}
    frames = Recording(source, (min(2 * size[0], width), min(2 * size[1], height)))
    sample, length = sample_frames(tqdm(frames, "reading video", unit="frame", **bar))
    parts = config.parts(length)
    needed, free = length * math.prod(size) * (3 if config.colour else 1), shutil.disk_usage(out.parent).free
    expected = f"scaled frames of at most {free / 1e9:.1f} GB, the space left in {out.parent}"
    require(needed <= free, expected, f"{needed / 1e9:.1f} GB: {length} frames of {size[0]}x{size[1]} px (--size)")
    if tracks is not None:
        tracks = tracks._replace(size=config.ground_truth_size or tracks.size)
        tracks = scale_tracks(tracks, length, video_size, size)
    found = []
    with TemporaryFile(dir=out.parent) as file:
        foreground = extract_foreground(frames, sample, size, config)
        for picture, boxes in tqdm(foreground, "extracting foreground", length, unit="frame", **bar):
            file.write(picture.tobytes())
            found.append(boxes)
        file.flush()
        pictures = np.asarray(np.memmap(file, np.uint8, "r")).reshape(length, size[1], size[0], -1)

    owner = np.repeat(np.arange(length), [len(boxes) for boxes in found])
    unknown = np.full_like(owner, -1)
    objects = tracks or Tracks(owner, unknown, np.concatenate(found), unknown, source)
    plans = [plan_crops(objects, part, size, config, [config.seed, number]) for number, part in enumerate(parts)]
    shown = [tracks.ids[present_rows(tracks, crop, config)] for crop in chain(*plans)] if tracks else []
    max_objects = max([1, *(len(np.unique(ids)) for ids in shown)])
    parameters = asdict(config) | {"source": source.name, "video_frames": length, "video_size": video_size}
    parameters |= {"frame_size": size, "ground_truth": tracks and tracks.path.name, "min_visible": MIN_VISIBLE}
    with ExitStack() as stack:  # both files appear when it ends
        for path, part, plan in zip(paths, parts, plans, strict=True):
            content = parameters | {"part": part.name}
            writer = SequenceWriter(path, generator="video", seed=config.seed, parameters=content, overwrite=overwrite)
            stack.enter_context(writer)
            for begin in tqdm(range(0, len(plan), _BATCH), f"writing {part.name}", unit="batch", **bar):
                writer.append(cut_crops(pictures, plan[begin : begin + _BATCH], tracks, max_objects, config))
    return ConvertedVideo(out, validation, tuple(map(len, plans)), length, size)
