# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""R-NEM's files, made by a second simulator and renderer in plain loops, with different units and orders."""

import itertools

import h5py
import numpy as np
import pytest
import torch

from pyro_sqair.data import RNEMDataset, SequenceDataset, convert_rnem, from_uint8, is_rnem, open_sequences

T, N, K, SIZE, RES = 12, 20, 3, 10.0, 64
RADII = [1.0, 1.2, 0.8]  # as fractions of the box, SIZE wide
SCALE = RES / SIZE


def simulate(rng):
    """Positions [T, n, K, 2] of balls that move straight, bounce off walls and pass through each other."""
    positions = np.zeros((T, N, K, 2))
    for n, k in itertools.product(range(N), range(K)):
        r = RADII[k]
        x, v = rng.uniform(r, SIZE - r, 2), rng.uniform(-0.6, 0.6, 2)
        for t in range(T):
            positions[t, n, k] = x
            x = x + v
            for d in range(2):
                if x[d] < r or x[d] > SIZE - r:
                    x[d] = 2 * (r if x[d] < r else SIZE - r) - x[d]
                    v = np.where(np.arange(2) == d, -v, v)
    return positions


def render(positions, curtain=None):
    """The ball that each pixel shows [T, n, H, W]: 0 for none, k + 1 for ball k; earlier balls are in front."""
    groups = np.zeros((T, N, RES, RES))
    rows, cols = np.mgrid[:RES, :RES] + 0.5
    for t, n in itertools.product(range(T), range(N)):
        for k in reversed(range(K)):
            x, y = positions[t, n, k] * SCALE
            groups[t, n][(cols - x) ** 2 + (rows - y) ** 2 < (RADII[k] * SCALE) ** 2] = k + 1
    if curtain is not None:
        groups[:, :, :, curtain] = K + 1
    return groups


class File:
    """A file in R-NEM's layout, and its content in pixels."""

    def __init__(self, path, seed=0, swap=False, unit=1.0, shift=0.0, curtain=None, dtype=bool, hidden=False):
        rng = np.random.default_rng(seed)
        self.path = path
        positions = simulate(rng)
        self.groups = render(positions, curtain)
        if hidden:  # in one sequence, a ball is never visible
            self.groups[:, 4][self.groups[:, 4] == 2] = 0
        self.positions = positions * SCALE
        self.collisions = rng.random((T, N, RES, RES)) < 0.02
        order = [1, 0] if swap else [0, 1]
        content = {
            "features": (self.groups > 0).astype(dtype)[..., None],
            "groups": self.groups.astype(np.float32)[..., None],
            "collisions": self.collisions[..., None],
            "positions": positions[..., order] * unit + shift,
        }
        with h5py.File(path, "w") as file:
            for split in ("training", "validation", "test"):
                for name, values in content.items():
                    file.create_dataset(f"{split}/{name}", data=values[:, : N if split == "training" else 3])


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return File(tmp_path_factory.mktemp("rnem") / "balls.h5")


def check(file, sequences, corner=0):
    """Compares with the content of the file: centres of boxes to 0.1 px, diameters to 0.5 px, the rest exactly."""
    size = RES - 2 * corner
    inner = np.s_[:, :, corner : corner + size, corner : corner + size]
    assert torch.equal(sequences.frames[:, :, 0], torch.from_numpy(file.groups > 0).float()[inner])
    assert torch.equal(sequences.collisions, torch.from_numpy(file.collisions)[inner])
    shown = torch.from_numpy(np.stack([(file.groups == k + 1).any((0, 2, 3)) for k in range(K)], -1))
    assert torch.equal(sequences.present, shown.expand(T, -1, -1))
    assert torch.equal(sequences.count, shown.sum(-1).expand(T, -1))
    assert torch.equal(sequences.ids, torch.where(shown, torch.arange(K), -1).expand(T, -1, -1))
    assert torch.equal(sequences.labels, torch.where(shown, 0, -1))
    positions = torch.from_numpy(file.positions).float() - corner
    radii = torch.tensor(RADII) * SCALE
    centres = sequences.boxes[..., :2] + sequences.boxes[..., 2:] / 2
    torch.testing.assert_close(centres, torch.where(shown[..., None], positions, 0.0), atol=0.1, rtol=0)
    size = sequences.boxes[..., 2:]
    assert torch.equal(size, size[:1, ..., :1].expand_as(size))  # square, and the same in all frames
    seen = torch.stack([torch.from_numpy((file.groups == k + 1).sum((2, 3)).max(0)) for k in range(K)], -1)
    wholly = seen > 0.98 * torch.pi * radii**2
    assert wholly.float().mean() > 0.4  # the others are partly hidden in all frames
    torch.testing.assert_close(size[0, ..., 0][wholly], (2 * radii).expand(N, K)[wholly], atol=0.5, rtol=0)
    assert bool((size[0, ..., 0] < 2 * radii + 0.3).all())


@pytest.mark.parametrize(
    "how",
    [
        {"swap": True},
        {"unit": 0.1},  # the box is 1 wide
        {"unit": SCALE, "swap": True},  # pixels, rows first
        {"unit": -2.0, "shift": 7.0},
        {"dtype": np.float32},
        {"dtype": np.uint8},
        {"hidden": True},
        {"curtain": slice(24, 40)},
    ],
    ids=lambda how: ",".join(how),
)
def test_units_and_order_are_fitted_to_the_pixels(tmp_path, how):
    file = File(tmp_path / "balls.h5", seed=1, **how)
    dataset = RNEMDataset(file.path, "training", crop=None)
    check(file, dataset.read())


def test_whole_frames_and_the_crop(plain):
    whole, cropped = RNEMDataset(plain.path, "training", None), open_sequences(plain.path)
    origin = True, "r-nem", None, {"file": "balls.h5", "split": "training", "crop": 50}
    assert cropped.layout == (N, T, (50, 50), 1, K, *origin) and len(cropped) == N and cropped.most_objects == K
    assert whole.layout.image_size == (64, 64) and is_rnem(plain.path)
    check(plain, whole.read())
    check(plain, cropped.read(), corner=7)
    assert len(open_sequences(plain.path, "validation")) == 3


def test_parts_of_sequences_are_read_and_the_generator_determines_the_sample(plain, assert_same):
    dataset = RNEMDataset(plain.path, "training")
    whole = dataset.read()
    assert_same(dataset.read([5, -1, 5], slice(1, 8, 3)), whole.slice(torch.tensor([5, N - 1, 5]), slice(1, 8, 3)))
    starts = torch.tensor([0, 3, T - 4])
    parts = [whole.slice([n], slice(t, t + 4)) for n, t in zip((2, 0, 7), starts.tolist(), strict=True)]
    assert_same(dataset._load(torch.tensor([2, 0, 7]), starts, 4), type(whole).cat(parts))
    batch, again = (dataset.sample(6, 4, torch.Generator().manual_seed(3)) for _ in range(2))
    assert_same(batch, again)


def test_conversion_keeps_everything(plain, tmp_path, assert_same):
    out = tmp_path / "converted.h5"
    convert_rnem(plain.path, "training", out, progress=False)
    dataset = SequenceDataset(out)
    assert_same(dataset.read(), RNEMDataset(plain.path, "training").read())
    assert dataset.layout == RNEMDataset(plain.path, "training").layout and not is_rnem(out)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        convert_rnem(plain.path, "training", out, progress=False)


def test_the_original_is_not_overwritten_by_its_conversion(plain):
    before = plain.path.read_bytes()
    with pytest.raises(ValueError, match="expected different files to read and to write, got .* for both"):
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


def with_nan(ball, frame=3, sequence=4):
    """Positions of which one is not finite, in a sequence that is not used for the calibration."""

    def change(positions):
        positions[frame, sequence, ball] = np.nan
        return positions

    return change


def test_positions_of_invisible_balls_may_be_unknown_and_files_big_endian(tmp_path, assert_same):
    file = File(tmp_path / "balls.h5", hidden=True)
    before = RNEMDataset(file.path, "training").read()
    assert not before.present[:, 4, 1].any()
    with h5py.File(file.path, "r+") as opened:
        for name in ("positions", "groups"):
            replaced(name, lambda values: values.astype(values.dtype.newbyteorder(">")))(opened)
        replaced("positions", with_nan(1))(opened)
    assert_same(RNEMDataset(file.path, "training").read(), before)


def replaced(name, function):
    def change(file):
        values = file["training"].pop(name)[...]
        file["training"][name] = function(values)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.pop("training"), "with the group 'training' in .*balls.h5, got only .*'test', 'validation'"),
        *(
            (lambda f, name=name: f["training"].pop(name), f"the dataset 'training/{name}' in .*, got only ")
            for name in ("features", "groups", "collisions", "positions")
        ),
        (replaced("features", lambda v: v[..., 0]), r"shape \[T, n, H, W, 1\] .* got \[12, 20, 64, 64\]"),
        (replaced("features", lambda v: v.repeat(3, -1)), r"features of shape .* got \[12, 20, 64, 64, 3\]"),
        (replaced("features", lambda v: v * -1.0), "features from 0 to 1 in .*, got others in training"),
        (replaced("features", lambda v: v * np.uint8(255)), "features from 0 to 1 in .*, got others in training"),
        (replaced("positions", lambda v: v[..., 0]), r"positions of shape \[T, n, K, 2\] .* got \[12, 20, 3\]"),
        (replaced("positions", lambda v: v[..., :1]), r"positions of shape \[12, 20, 3, 2\] .* got \[12, 20, 3, 1\]"),
        (replaced("groups", lambda v: v[:-1]), r"groups of shape \[12, 20, 64, 64\] .* got \[11, 20, 64, 64, 1\]"),
        (replaced("collisions", lambda v: v.repeat(2, -1)), r"collisions of shape .* got \[12, 20, 64, 64, 2\]"),
        (
            replaced("positions", lambda v: v[:, ::-1]),
            "positions of ball k at the pixels .*, got a median distance of",
        ),
        (
            replaced("positions", with_nan(0, sequence=9)),
            "finite positions of visible balls in .*, got others in training",
        ),
        (
            lambda f: (
                f["training"].pop("features"),
                f["training"].create_dataset("features", (T, N, RES, RES, 1), "f4"),
            ),
            "expected 3932160 written bytes of 'training/features' in .*balls.h5, got 0",
        ),
        (
            lambda f: (f["training"].pop("groups"), f["training"].__setitem__("groups", h5py.SoftLink("/groups"))),
            "the dataset 'training/groups' itself in .*balls.h5, got a link: SoftLink",
        ),
        (replaced("positions", lambda v: v * np.nan), "positions of ball k .*, got a median distance of nan"),
        (replaced("groups", lambda v: v * 0), "positions of ball k .*, got a median distance of nan"),
    ],
)
def test_invalid_files_are_refused(plain, tmp_path, change, message):
    path = tmp_path / "balls.h5"
    path.write_bytes(plain.path.read_bytes())
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(ValueError, match=message):
        RNEMDataset(path, "training").read()


def test_invalid_arguments_are_refused(plain, tmp_path):
    with pytest.raises(ValueError, match="split to be one of .*'training', 'validation', 'test'.*, got 'train'"):
        RNEMDataset(plain.path, "train")
    for crop in (0, 65):
        with pytest.raises(ValueError, match=f"expected a crop of 1 to 64 px, the size of the frames, got {crop}"):
            RNEMDataset(plain.path, "training", crop=crop)
    with pytest.raises(FileNotFoundError, match="found nothing"):
        RNEMDataset(tmp_path / "none.h5", "training")
