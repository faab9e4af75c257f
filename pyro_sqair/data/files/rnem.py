# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""Reading the bouncing balls of R-NEM (van Steenkiste et al. 2018) from the files that its authors published."""

from __future__ import annotations

import math
import os
from pathlib import Path

import h5py
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from pyro_sqair.data.files.dataset import SequenceDataset, StoredSequences, gather
from pyro_sqair.data.files.format import Layout, check_written, open_hdf5, reading, stored_dataset
from pyro_sqair.data.files.writer import SequenceWriter
from pyro_sqair.data.sequences import Sequences, place_objects, quantise, require

RNEM_SPLITS = ("training", "validation", "test")
# The number of axes of each dataset, time first; axes of length 1 may follow.
_AXES = {"features": 5, "groups": 4, "collisions": 4, "positions": 4}
_CALIBRATION_SEQUENCES, _FITS, _MAX_ERROR = 16, 3, 1.0  # the last in pixels
_UNOCCLUDED = 0.9  # least part of the most visible pixels of a ball for it to count as unoccluded
_CHUNK = 50  # sequences converted at a time


class RNEMDataset(StoredSequences):
    """The balls in one split of an R-NEM file such as `balls4mass64.h5`: a `Source` to train on, and a reader.

    The unit and order of the coordinates in `positions` differ between files: an affine map from positions to pixels is
    fitted to the centres of unoccluded balls in `groups`. A ball's box is a square around its position, as wide as a
    disc with as many pixels as the ball when it is unoccluded, so that neither other objects nor the crop change it. A
    ball is present in all frames of a sequence if it is visible in one of them. Random access is slow, as the files are
    stored time first; `convert_rnem` writes one that trains faster.

    Args:
        path: the file.
        split: "training", "validation" or "test".
        crop: side of the central square of the frames, pixels; R-SQAIR takes 50 of 64. None takes whole frames.
        device: where sequences are returned, and where generators must be.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the split is unknown, the file is not one of R-NEM's, or `crop` is too large.
    """

    def __init__(
        self, path: str | os.PathLike[str], split: str, crop: int | None = 50, device: torch.device | str = "cpu"
    ) -> None:
        require(split in RNEM_SPLITS, f"split to be one of {RNEM_SPLITS}", repr(split))
        self.path, self.split, self.device = Path(path), split, torch.device(device)
        with open_hdf5(self.path) as file:
            num_frames, total, height, width, balls = _sizes(file, split, self.path)
        side = min(height, width)
        require(crop is None or 1 <= crop <= side, f"a crop of 1 to {side} px, the size of the frames", crop)
        size = (height, width) if crop is None else (crop, crop)
        top, left = (height - size[0]) // 2, (width - size[1]) // 2
        self._corner, self._crop = (left, top), (..., slice(top, top + size[0]), slice(left, left + size[1]))
        self.most_objects = balls
        parameters = {"file": self.path.name, "split": split, "crop": crop}
        self.layout = Layout(total, num_frames, size, 1, balls, True, "r-nem", None, parameters)
        few = torch.linspace(0, total - 1, min(total, _CALIBRATION_SEQUENCES)).long()
        positions, groups = (self._stored(name, few, 0 * few, num_frames) for name in ("positions", "groups"))
        self._to_pixels = _calibrate(positions, groups, self.path)

    def _load(self, index: Tensor, starts: Tensor, length: int) -> Sequences:
        features = self._stored("features", index, starts, length)
        valid = bool(((features >= 0) & (features <= 1)).all())
        require(valid, f"features from 0 to 1 in {self.path}", f"others in {self.split}")
        # Size and presence of a ball must not depend on the window, so they are taken from all frames.
        groups = self._stored("groups", index, 0 * starts, self.layout.num_frames)
        diameters = _measure(groups, self.layout.max_objects)[2]
        positions = self._stored("positions", index, starts, length)
        finite = bool(positions[:, diameters > 0].isfinite().all())
        require(finite, f"finite positions of visible balls in {self.path}", f"others in {self.split}")
        centres = F.pad(positions, (0, 1), value=1.0) @ self._to_pixels - torch.tensor(self._corner)
        size = diameters[..., None].expand_as(centres)
        frames, boxes = quantise(features.movedim(-1, 2)[self._crop]), torch.cat([centres - size / 2, size], -1)
        collisions = (self._stored("collisions", index, starts, length)[self._crop] > 0).contiguous()
        labels = torch.zeros_like(diameters, dtype=torch.int64)
        return place_objects(frames, diameters > 0, boxes, labels, collisions).to(self.device)

    def _stored(self, name: str, index: Tensor, starts: Tensor, length: int) -> Tensor:
        """Windows of a dataset of the file, float32 [length, B, ...]."""
        with open_hdf5(self.path) as file, reading(f"{self.split}/{name}", self.path):
            dataset = file[self.split][name]
            read = gather(lambda n, t: dataset[t : t + length, n].swapaxes(0, 1), index.tolist(), starts.tolist())
        return read.float().transpose(0, 1).reshape(length, len(index), *read.shape[2 : _AXES[name]])


def is_rnem(path: str | os.PathLike[str]) -> bool:
    """Whether an HDF5 file has R-NEM's layout; errors are those of `open_hdf5`."""
    with open_hdf5(Path(path)) as file:
        return "format" not in file.attrs and any(split in file for split in RNEM_SPLITS)


def open_sequences(
    path: str | os.PathLike[str], split: str = "training", in_memory: bool = False, device: torch.device | str = "cpu"
) -> SequenceDataset | RNEMDataset:
    """Opens a file of either format; errors are those of `SequenceDataset` and `RNEMDataset`.

    Args:
        path: the file.
        split: part of an R-NEM file; our files have none.
        in_memory: see `SequenceDataset`; R-NEM's files are always read on demand.
        device: where sequences are returned.
    """
    return RNEMDataset(path, split, device=device) if is_rnem(path) else SequenceDataset(path, in_memory, device)


def convert_rnem(
    path: str | os.PathLike[str],
    split: str,
    out: str | os.PathLike[str],
    crop: int | None = 50,
    overwrite: bool = False,
    progress: bool = True,
) -> None:
    """Writes one split of an R-NEM file as a file of sequences, for `SequenceDataset`.

    Raises:
        FileNotFoundError: if there is no such file.
        FileExistsError: if `out` exists and `overwrite` is False.
        ValueError: if the file is not one of R-NEM's, or `out` is that very file.
        OSError: if the disk is full.
    """
    require(Path(out).resolve() != Path(path).resolve(), "different files to read and to write", f"{out} for both")
    dataset = RNEMDataset(path, split, crop)
    starts = range(0, len(dataset), _CHUNK)
    with SequenceWriter(out, generator="r-nem", parameters=dataset.layout.parameters, overwrite=overwrite) as writer:
        for start in tqdm(starts, disable=not progress, desc=writer.path.name):
            writer.append(dataset.read(slice(start, start + _CHUNK)))


def _measure(groups: Tensor, balls: int) -> tuple[Tensor, Tensor, Tensor]:
    """Measures balls in groups [T, n, H, W], whose pixels are k + 1 where ball k is visible.

    Returns whether it is unoccluded [T, n, K], the centres (x, y) of its visible pixels [T, n, K, 2], and the diameters
    [n, K] of discs with its median area while unoccluded, 0 for a ball that is never visible.
    """
    masks = (groups.round()[:, :, None] == torch.arange(1, balls + 1).view(-1, 1, 1)).float()
    area = masks.sum((-2, -1))
    unoccluded = (area > 0) & (area >= _UNOCCLUDED * area.amax(0))
    median = torch.where(unoccluded, area, torch.nan).nanmedian(0).values
    # The centre of the first pixel is at 0.5, so that the frame spans [0, W].
    x = (masks.sum(-2) @ (torch.arange(groups.shape[-1]) + 0.5)) / area
    y = (masks.sum(-1) @ (torch.arange(groups.shape[-2]) + 0.5)) / area
    return unoccluded, torch.stack([x, y], -1), 2 * (median / math.pi).sqrt().nan_to_num(0.0)


def _calibrate(positions: Tensor, groups: Tensor, path: Path) -> Tensor:
    """Fits the affine map [3, 2] from positions to centres of unoccluded balls in pixels, by least squares."""
    unoccluded, centres, _ = _measure(groups, positions.shape[2])
    given, wanted = F.pad(positions, (0, 1), value=1.0)[unoccluded].double(), centres[unoccluded].double()
    fit, error, kept = torch.zeros(3, 2), math.nan, torch.ones(len(given), dtype=torch.bool)
    if len(given) and bool(given.isfinite().all()):
        for _ in range(_FITS):  # without the outliers of the previous fit: balls that are partly hidden in all frames
            fit = torch.linalg.lstsq(given[kept], wanted[kept], driver="gelsd").solution
            distance = (given @ fit - wanted).norm(dim=-1)
            kept = distance <= 2 * distance.median()
        error = float(distance.median())
    expected = f"positions of ball k at the pixels whose groups are k + 1 in {path}"
    require(error < _MAX_ERROR, expected, f"a median distance of {error:.1f} px")
    return fit.float()


def _sizes(file: h5py.File, split: str, path: Path) -> tuple[int, int, int, int, int]:
    """T, n, H, W and K of a split, once its datasets have been found to be in shapes that agree."""
    group = file.get(split)
    require(isinstance(group, h5py.Group), f"an R-NEM file with the group {split!r} in {path}", f"only {list(file)}")
    datasets = {name: stored_dataset(group, name, path) for name in _AXES}
    features, positions = datasets["features"].shape, datasets["positions"].shape
    valid = len(features) == 5 and features[4] == 1 and 0 not in features
    require(valid, f"features of shape [T, n, H, W, 1] in {path}", list(features))
    require(len(positions) >= 4, f"positions of shape [T, n, K, 2] in {path}", list(positions))
    image, balls = features[:4], (*features[:2], positions[2], 2)
    for name, shape in {"groups": image, "collisions": image, "positions": balls}.items():
        given = datasets[name].shape
        valid = given[: len(shape)] == shape and set(given[len(shape) :]) <= {1}
        require(valid, f"{name} of shape {list(shape)} in {path}", list(given))
    check_written(datasets["features"], path)
    return (*image, positions[2])
