# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""R-NEM's files, made here by a simulator and a renderer of plain loops, in one unit and order or another."""

import itertools
import math
import pickle

import h5py
import numpy as np
import pytest
import torch

from pyro_sqair.data import RNEMDataset, SequenceDataset, convert_rnem, from_uint8, read_rnem

T, N, K, SIZE, RES = 12, 20, 3, 10.0, 64
RADII = [1.0, 1.2, 0.8]  # as fractions of the box, SIZE wide
SCALE = RES / SIZE


def simulate(rng, balls=K):
    """Balls that fly straight, bounce off walls and pass through one another: positions, velocities [T, n, K, 2]."""
    positions, velocities = np.zeros((T, N, balls, 2)), np.zeros((T, N, balls, 2))
    for n, k in itertools.product(range(N), range(balls)):
        r = RADII[k % 3]
        x, v = rng.uniform(r, SIZE - r, 2), rng.uniform(-0.6, 0.6, 2)
        for t in range(T):
            positions[t, n, k], velocities[t, n, k] = x, v
            x = x + v
            for d in range(2):
                if x[d] < r or x[d] > SIZE - r:
                    x[d] = 2 * (r if x[d] < r else SIZE - r) - x[d]
                    v = np.where(np.arange(2) == d, -v, v)
    return positions, velocities


def render(positions, curtain=None):
    """Which ball each pixel shows [T, n, H, W]: 0 none, k + 1 ball k; the earlier ball is in front."""
    groups = np.zeros((T, N, RES, RES))
    rows, cols = np.mgrid[:RES, :RES] + 0.5
    for t, n in itertools.product(range(T), range(N)):
        for k in reversed(range(positions.shape[2])):
            x, y = positions[t, n, k] * SCALE
            groups[t, n][(cols - x) ** 2 + (rows - y) ** 2 < (RADII[k % 3] * SCALE) ** 2] = k + 1
    if curtain is not None:
        groups[:, :, :, curtain] = positions.shape[2] + 1
    return groups


class File:
    """A file in R-NEM's layout, and the truth in pixels that went into it."""

    def __init__(self, path, seed=0, swap=False, unit=1.0, step=1.0, curtain=None, dtype=bool, ones=1, hidden=False):
        rng = np.random.default_rng(seed)
        self.path = path
        positions, velocities = simulate(rng)
        self.groups = render(positions, curtain)
        if hidden:  # a ball that only the other sequences have
            self.groups[:, 4][self.groups[:, 4] == 2] = 0
        self.positions, self.velocities = positions * SCALE, velocities * SCALE
        self.collisions = rng.random((T, N, RES, RES)) < 0.02
        self.events = self.collisions.any((2, 3)) & (rng.random((T, N)) < 0.5)
        order = [1, 0] if swap else [0, 1]
        content = {
            "features": ((self.groups > 0) * ones).astype(dtype)[..., None],
            "groups": self.groups.astype(np.float32)[..., None],
            "collisions": self.collisions[..., None],
            "events": self.events[..., None, None, None],
            "positions": positions[..., order] * unit,
            "velocities": velocities[..., order] * unit * step,
        }
        with h5py.File(path, "w") as file:
            for split in ("training", "validation", "test"):
                for name, values in content.items():
                    file.create_dataset(f"{split}/{name}", data=values[:, : N if split == "training" else 3])


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return File(tmp_path_factory.mktemp("rnem") / "balls.h5")


def check(file, sequences, corner=0):
    """Compares with the truth: positions within a small part of a pixel, the rest exactly."""
    size = RES - 2 * corner
    inner = np.s_[:, :, corner : corner + size, corner : corner + size]
    assert torch.equal(sequences.frames[:, :, 0], torch.from_numpy(file.groups > 0).float()[inner])
    assert torch.equal(sequences.physics.collisions, torch.from_numpy(file.collisions)[inner])
    assert torch.equal(sequences.physics.events, torch.from_numpy(file.events))
    shown = torch.from_numpy(np.stack([(file.groups == k + 1).any((0, 2, 3)) for k in range(K)], -1))
    assert torch.equal(sequences.present, shown.expand(T, -1, -1))
    assert torch.equal(sequences.count, shown.sum(-1).expand(T, -1))
    assert torch.equal(sequences.ids, torch.where(shown, torch.arange(K), -1).expand(T, -1, -1))
    assert torch.equal(sequences.labels, torch.where(shown, 0, -1))
    positions = torch.from_numpy(file.positions).float() - corner
    radii = torch.tensor(RADII) * SCALE
    velocities = torch.from_numpy(file.velocities).float()
    for given, expected, tolerance in (
        (sequences.physics.positions, positions, 0.1),
        (sequences.physics.velocities, velocities, 0.02),
        (sequences.boxes[..., :2] + sequences.boxes[..., 2:] / 2, positions, 0.1),
    ):
        assert given.dtype == torch.float32
        torch.testing.assert_close(given, torch.where(shown[..., None], expected, 0.0), atol=tolerance, rtol=0)
    size = sequences.boxes[..., 2:]
    assert torch.equal(size, size[:1, ..., :1].expand_as(size))  # square, and the same in all frames
    seen = torch.stack([torch.from_numpy((file.groups == k + 1).sum((2, 3)).max(0)) for k in range(K)], -1)
    wholly = seen > 0.98 * torch.pi * radii**2
    assert wholly.float().mean() > 0.4  # the others are behind something in all frames, and look smaller
    torch.testing.assert_close(size[0, ..., 0][wholly], (2 * radii).expand(N, K)[wholly], atol=0.5, rtol=0)
    assert bool((size[0, ..., 0] < 2 * radii + 0.3).all())


@pytest.mark.parametrize(
    "how",
    [
        {"swap": True},
        {"unit": 0.1},  # the box is 1 wide
        {"unit": SCALE, "swap": True},  # pixels, rows first
        {"step": 0.5},  # two units of time in a frame
        {"dtype": np.float32},
        {"dtype": np.uint8},
        {"dtype": np.uint8, "ones": 255},
        {"hidden": True},
        {"curtain": slice(24, 40)},
    ],
    ids=lambda how: ",".join(how),
)
def test_units_and_order_are_found_from_the_file(tmp_path, how):
    file = File(tmp_path / "balls.h5", seed=1, **how)
    dataset = RNEMDataset(file.path, "training", crop=None)
    check(file, dataset.read())


def test_whole_frames_and_the_crop(plain):
    whole, cropped = (read_rnem(plain.path, "training", crop) for crop in (None, 50))
    assert len(cropped) == N and cropped.num_frames == T and (cropped.channels, cropped.max_objects) == (1, K)
    assert whole.image_size == (64, 64) and cropped.image_size == (50, 50)
    check(plain, whole.read())
    check(plain, cropped.read(), corner=7)
    assert len(RNEMDataset(plain.path, "validation")) == 3


def test_boxes_are_tight_around_what_shows(plain):
    """A second way to the boxes: the outermost pixels of a ball that nothing hides."""
    boxes = RNEMDataset(plain.path, "training", crop=None).read().boxes
    checked = 0
    for t, n, k in itertools.product(range(T), range(N), range(K)):
        mask = plain.groups[t, n] == k + 1
        if mask.sum() < 0.98 * math.pi * (RADII[k] * SCALE) ** 2:
            continue
        rows, cols = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
        expected = [cols[0], rows[0], cols[-1] + 1 - cols[0], rows[-1] + 1 - rows[0]]
        assert np.abs(boxes[t, n, k].numpy() - expected).max() < 1.1
        checked += 1
    assert checked > 300


def test_a_sample_is_windows_of_what_read_gives(plain, assert_same):
    dataset = RNEMDataset(plain.path, "training")
    whole = dataset.read()
    batch = dataset.sample(6, 4, torch.Generator().manual_seed(3))
    again = dataset.sample(6, 4, torch.Generator().manual_seed(3))
    assert_same(batch, again)
    found = set()
    for b in range(6):
        one = batch.slice([b])
        places = [
            (n, t)
            for n in range(N)
            for t in range(T - 3)
            if torch.equal(whole.physics.positions[t : t + 4, n], one.physics.positions[:, 0])
        ]
        ((n, t),) = places
        assert_same(one, whole.slice([n], slice(t, t + 4)))
        found.add((n, t))
    assert len({n for n, _ in found}) == 6 and len({t for _, t in found}) > 2
    assert_same(dataset.read([5, -1, 5], slice(1, 8, 3)), whole.slice(torch.tensor([5, N - 1, 5]), slice(1, 8, 3)))


def test_a_ball_has_the_same_size_in_every_window(plain):
    dataset = RNEMDataset(plain.path, "training")
    whole = dataset.read().boxes[..., 2:]
    for start in range(T):
        assert torch.equal(dataset.read(frames=slice(start, start + 1)).boxes[..., 2:], whole[start : start + 1])


def test_it_can_be_closed_and_pickled(plain, assert_same):
    dataset = RNEMDataset(plain.path, "test")
    whole = dataset.read()
    assert_same(pickle.loads(pickle.dumps(dataset)).read(), whole)
    dataset.close()
    assert_same(dataset.read(), whole)


def test_conversion_keeps_everything(plain, tmp_path, assert_same):
    out = tmp_path / "converted.h5"
    convert_rnem(plain.path, "training", out, progress=False)
    dataset = SequenceDataset(out)
    assert_same(dataset.read(), RNEMDataset(plain.path, "training").read())
    assert dataset.generator == "r-nem" and dataset.seed is None
    assert dataset.parameters == {"file": "balls.h5", "split": "training", "crop": 50}
    with pytest.raises(FileExistsError, match="overwrite=True"):
        convert_rnem(plain.path, "training", out, progress=False)


def test_the_original_is_never_converted_over_itself(plain):
    before = plain.path.read_bytes()
    with pytest.raises(ValueError, match="expected to write to another file than is read, got .* for both"):
        convert_rnem(plain.path, "training", plain.path.parent / "." / plain.path.name, overwrite=True, progress=False)
    assert plain.path.read_bytes() == before


def test_grey_features_are_rounded_to_bytes(plain, tmp_path):
    path = tmp_path / "grey.h5"
    path.write_bytes(plain.path.read_bytes())
    grey = np.random.default_rng(2).random((T, N, RES, RES, 1), dtype=np.float32)
    with h5py.File(path, "r+") as file:
        del file["training/features"]
        file["training/features"] = grey
    frames = RNEMDataset(path, "training", crop=None).read().frames[:, :, 0]
    assert torch.equal(frames, from_uint8(torch.from_numpy(np.rint(grey[..., 0] * np.float32(255))).to(torch.uint8)))


def replaced(name, function):
    def change(file):
        values = file[name][...]
        del file[name]
        file[name] = function(values)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.pop("training"), "with the group 'training', got .*balls.h5 with only 'test', 'validation'"),
        *(
            (lambda f, name=name: f["training"].pop(name), f"expected the dataset 'training/{name}' in .*, got only '")
            for name in ("features", "groups", "collisions", "events", "positions", "velocities")
        ),
        (
            replaced("training/features", lambda v: v[..., 0]),
            r"features of shape \[T, n, H, W, 1\] .* got \[12, 20, 64, 64\]",
        ),
        (replaced("training/features", lambda v: v.repeat(3, -1)), r"features of shape .* got \[12, 20, 64, 64, 3\]"),
        (
            replaced("training/positions", lambda v: v[..., 0]),
            r"positions of shape \[T, n, K, 2\] .* got \[12, 20, 3\]",
        ),
        (
            replaced("training/velocities", lambda v: v[:, :, :2]),
            r"velocities of shape \[12, 20, 3, 2\] .* got \[12, 20, 2, 2\]",
        ),
        (
            replaced("training/groups", lambda v: v[:-1]),
            r"groups of shape \[12, 20, 64, 64\] .* got \[11, 20, 64, 64, 1\]",
        ),
        (
            replaced("training/events", lambda v: v.repeat(2, -1)),
            r"events of shape \[12, 20\] .* got \[12, 20, 1, 1, 2\]",
        ),
        (
            replaced("training/positions", lambda v: v[:, ::-1]),
            "expected positions of ball k where groups are k . 1, got .* off by",
        ),
        (
            replaced("training/positions", lambda v: v * np.nan),
            "expected positions of ball k where groups are k . 1, got .* off by nan",
        ),
        (replaced("training/groups", lambda v: v * 0), "expected positions of ball k where groups are k . 1, got"),
        (
            replaced("training/features", lambda v: v * -1.0),
            "expected features from 0 to 1 in .*, got others in training",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said(plain, tmp_path, change, message):
    path = tmp_path / "balls.h5"
    path.write_bytes(plain.path.read_bytes())
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(ValueError, match=message):
        RNEMDataset(path, "training").read()


def test_bad_arguments_are_said(plain, tmp_path):
    with pytest.raises(ValueError, match="split to be one of 'training', 'validation', 'test', got 'train'"):
        RNEMDataset(plain.path, "train")
    for crop in (0, 65):
        with pytest.raises(ValueError, match=f"expected a crop of 1 to 64 px, the size of the frames, got {crop}"):
            RNEMDataset(plain.path, "training", crop=crop)
    with pytest.raises(ValueError, match="expected a length of at most 12, the frames in a sequence, got 13"):
        RNEMDataset(plain.path, "training").sample(2, 13, torch.Generator())
    with pytest.raises(FileNotFoundError, match="found nothing"):
        RNEMDataset(tmp_path / "none.h5", "training")
