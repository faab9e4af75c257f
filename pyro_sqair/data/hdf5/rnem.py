# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Reading the bouncing balls of R-NEM (van Steenkiste et al. 2018) from the files its authors give out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import h5py
import torch
from torch import Tensor

from pyro_sqair.data.hdf5.hdf5_handle import Hdf5Handle
from pyro_sqair.data.hdf5.rnem_calibration import ball_pixels, calibrate
from pyro_sqair.data.hdf5.streaming import write_batches
from pyro_sqair.data.hdf5.windows import Windows, chosen_windows, random_windows, runs
from pyro_sqair.data.pixels import quantise
from pyro_sqair.data.sequences import Physics, Sequences

RNEM_SPLITS = ("training", "validation", "test")
# Their shapes, time first; axes of length 1 may follow.
_AXES = {"features": 5, "groups": 4, "collisions": 4, "events": 2, "positions": 4, "velocities": 4}
_CALIBRATION_SEQUENCES = 16
_CHUNK = 50


def read_rnem(
    path: str | os.PathLike[str], split: str, crop: int | None = 50, device: torch.device | str = "cpu"
) -> RNEMDataset:
    """Opens a file of R-NEM, such as `balls4mass64.h5`, unchanged; see `RNEMDataset`."""
    return RNEMDataset(path, split, crop, device)


class RNEMDataset:
    """The balls in one part of a file of R-NEM: a `Source` to train on, and a reader.

    What the file does not say is found from it, on opening: the unit and the order of the coordinates by fitting
    `positions` to the pixels of each ball in `groups`. A ball's box is a square around its position, as wide as a disc
    with as many pixels as the ball has when it shows the most, so that a curtain or the edge of the crop does not make
    it smaller.
    A ball is present in all frames of a sequence if it shows in one of them.

    Files are laid out for reading many sequences at one time; `convert_rnem` makes one that trains faster.

    Args:
        path: the file.
        split: "training", "validation" or "test".
        crop: side of the square cut from the middle of the frames, pixels; R-SQAIR takes 50 of 64, so that balls leave
            and come back. None takes whole frames.
        device: where the sequences are given out, and where generators must live.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the split is unknown, the file is not of R-NEM's, which it says why, or `crop` is too large.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str,
        crop: int | None = 50,
        device: torch.device | str = "cpu",
    ) -> None:
        if split not in RNEM_SPLITS:
            raise ValueError(f"expected split to be one of {', '.join(map(repr, RNEM_SPLITS))}, got {split!r}")
        self.path, self.split, self.device = Path(path), split, torch.device(device)
        self._handle = Hdf5Handle(path)
        _check(self._handle.open(), split, self.path)
        self.num_frames, self._total, height, width, self.channels = self._dataset("features").shape[:5]
        self.max_objects: int = self._dataset("positions").shape[2]
        side = crop or 0
        if crop is not None and not 1 <= crop <= min(height, width):
            raise ValueError(f"expected a crop of 1 to {min(height, width)} px, the size of the frames, got {crop}")
        self.image_size = (side, side) if crop is not None else (height, width)
        self._corner = (height - self.image_size[0]) // 2, (width - self.image_size[1]) // 2
        index = torch.arange(min(self._total, _CALIBRATION_SEQUENCES))
        sample = Windows(index, torch.zeros_like(index), self.num_frames)
        # Bytes may be 0 and 1, or 0 to 255.
        largest = float(self._stored("features", sample).max())
        self._white = 255.0 if largest > 1 and not self._dataset("features").dtype.kind == "f" else 1.0
        self._calibration = calibrate(
            ball_pixels(self._groups(sample), self.max_objects),
            self._stored("positions", sample),
            self._stored("velocities", sample),
        )
        self._handle.close()

    def __len__(self) -> int:
        return self._total

    def sample(self, batch: int, length: int, generator: torch.Generator) -> Sequences:
        """Draws random windows of random sequences, as `SequenceDataset.sample` does.

        Raises:
            ValueError: if `batch` or `length` is below 1, `length` is more than there is, or the generator is on
                another device.
        """
        return self._sequences(random_windows(len(self), self.num_frames, batch, length, generator, self.device))

    def read(self, sequences: slice | list[int] | Tensor = slice(None), frames: slice = slice(None)) -> Sequences:
        """Chosen sequences, in the order asked for, as `SequenceDataset.read` does.

        Raises:
            IndexError: if there is no such sequence.
            ValueError: if no sequence or no frame is chosen, or frames are asked for backwards.
        """
        windows, step = chosen_windows(len(self), self.num_frames, sequences, frames)
        read = self._sequences(windows)
        return read if step == 1 else read.slice(frames=slice(None, None, step))

    def close(self) -> None:
        """Lets go of the file; reading again opens it again."""
        self._handle.close()

    def _sequences(self, windows: Windows) -> Sequences:
        windows = Windows(windows.sequences.cpu(), windows.starts.cpu(), windows.length)
        # Size and presence of a ball must not depend on the window, so they come from all frames.
        pixels = ball_pixels(
            self._groups(windows._replace(starts=0 * windows.starts, length=self.num_frames)), self.max_objects
        )
        present = (pixels.radius > 0).expand(windows.length, -1, -1)
        top, left = self._corner
        centres = self._calibration.positions(self._stored("positions", windows)) - torch.tensor([left, top])
        size = 2 * pixels.radius[..., None].expand(windows.length, -1, -1, 2)
        shown = present[..., None]
        slots = torch.arange(self.max_objects)
        features = self._stored("features", windows) / self._white
        if not bool(((features >= 0) & (features <= 1)).all()):
            raise ValueError(f"expected features from 0 to 1 in {self.path}, got others in {self.split}")
        return Sequences(
            frames=quantise(self._cropped(features.movedim(-1, 2))),
            count=present.sum(-1),
            present=present.clone(),
            boxes=torch.where(shown, torch.cat([centres - size / 2, size], -1), 0.0),
            ids=torch.where(present, slots, -1),
            labels=torch.where(present[0], 0, -1),
            physics=Physics(
                positions=torch.where(shown, centres, 0.0),
                velocities=torch.where(shown, self._calibration.velocities(self._stored("velocities", windows)), 0.0),
                collisions=self._cropped(self._stored("collisions", windows) > 0),
                events=self._stored("events", windows) > 0,
            ),
        ).to(self.device)

    def _cropped(self, images: Tensor) -> Tensor:
        (top, left), (height, width) = self._corner, self.image_size
        return images[..., top : top + height, left : left + width].contiguous()

    def _groups(self, windows: Windows) -> Tensor:
        return self._stored("groups", windows).round().long()

    def _dataset(self, name: str) -> h5py.Dataset:
        return self._handle.open()[self.split][name]

    def _stored(self, name: str, windows: Windows) -> Tensor:
        """A field of the file, float32 [length, B, ...]."""
        dataset = self._dataset(name)
        parts = [
            dataset[run.start : run.start + windows.length, run.sequence : run.sequence + run.last - run.first]
            for run in runs(windows)
        ]
        values = torch.cat([torch.from_numpy(part).float() for part in parts], 1)
        return values.reshape(values.shape[: _AXES[name]])


def convert_rnem(
    path: str | os.PathLike[str],
    split: str,
    out: str | os.PathLike[str],
    crop: int | None = 50,
    overwrite: bool = False,
    progress: bool = True,
) -> None:
    """Writes one part of a file of R-NEM as a file of sequences, for `SequenceDataset`.

    Raises:
        FileNotFoundError: if there is no such file.
        FileExistsError: if `out` is there and `overwrite` is False.
        ValueError: if the file is not of R-NEM's, or `out` is that very file.
        OSError: if the disk is full.
    """
    if Path(out).resolve() == Path(path).resolve():
        raise ValueError(f"expected to write to another file than is read, got {out} for both")
    dataset = RNEMDataset(path, split, crop)

    def batches() -> Iterator[Sequences]:
        for start in range(0, len(dataset), _CHUNK):
            yield dataset.read(slice(start, start + _CHUNK))

    write_batches(
        out,
        batches(),
        len(dataset),
        generator="r-nem",
        seed=None,
        parameters={"file": dataset.path.name, "split": split, "crop": crop},
        overwrite=overwrite,
        progress=progress,
    )


def _check(file: h5py.File, split: str, path: Path) -> None:
    """Raises a ValueError unless the split holds all that R-NEM's files do, in shapes that agree."""
    if not isinstance(file.get(split), h5py.Group):
        raise ValueError(
            f"expected a file of R-NEM with the group {split!r}, got {path} with only "
            f"{', '.join(map(repr, file)) or 'nothing'}"
        )
    group = file[split]
    for name in _AXES:
        if not isinstance(group.get(name), h5py.Dataset):
            raise ValueError(
                f"expected the dataset {split + '/' + name!r} in {path}, got only {', '.join(map(repr, group))}"
            )
    features, positions = group["features"].shape, group["positions"].shape
    if len(features) != 5 or features[4] != 1 or 0 in features:
        raise ValueError(f"expected features of shape [T, n, H, W, 1] in {path}, got {list(features)}")
    if len(positions) < 4:
        raise ValueError(f"expected positions of shape [T, n, K, 2] in {path}, got {list(positions)}")
    image, balls = features[:4], (*features[:2], positions[2], 2)
    expected = {"features": features, "groups": image, "collisions": image, "events": features[:2]}
    for name, shape in (expected | {"positions": balls, "velocities": balls}).items():
        given = group[name].shape
        if given[: len(shape)] != shape or any(size != 1 for size in given[len(shape) :]):
            raise ValueError(f"expected {name} of shape {list(shape)} in {path}, got {list(given)}")
