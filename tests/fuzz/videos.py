# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Files of sequences, read by `info`, `show` and `train`."""

import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from case import CHANGED, DATA, SMALL, Case, cut, flip, write_data

from pyro_sqair.cli import main


def videos() -> list[Case]:
    """The cases."""
    rng, cases = random.Random(0), []
    good = write_data()
    commands = {
        "info": ["data", "info", "changed/train.h5"],
        "show": ["data", "show", "changed/train.h5", "--out", "shown", "--overwrite", "--sequences", "1"],
        "train": ["train", "changed/train.h5", "--out", "new", *SMALL],
    }

    def read(command: str, change: Callable[[Path], None]) -> int:
        for folder in (CHANGED, Path("new")):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(DATA, CHANGED)
        change(CHANGED / "train.h5")
        return main(commands[command])

    def rewrite(content: bytes, path: Path) -> None:
        path.write_bytes(content)

    def edit(change: Callable[[h5py.File], None], path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    weights = 4, 1, 1  # `show` and `train` take a second
    for mutate, number in ((flip, 90), (cut, 15)):
        for command in rng.choices([*commands], weights, k=number):
            changed = partial(rewrite, mutate(good, rng))
            cases.append(Case(f"{command}: {mutate.__name__}", mutate is cut, partial(read, command, changed)))
    for name, change in edits(DATA / "train.h5").items():
        (command,) = rng.choices([*commands], weights)
        cases.append(Case(f"{command}: {name}", not name.endswith("?"), partial(read, command, partial(edit, change))))
    return cases


def edits(path: Path) -> dict[str, Callable[[h5py.File], None]]:
    """Changes through h5py by name; a name with a question mark may be accepted."""
    found: dict[str, Callable[[h5py.File], None]] = {}

    def store(name: str, make: Callable[[h5py.File, np.ndarray], object], file: h5py.File) -> None:
        values = file[name][...]
        del file[name]
        if (made := make(file, values)) is not None:
            file[name] = made

    def virtual(name: str, file: h5py.File, values: np.ndarray) -> None:
        layout = h5py.VirtualLayout(values.shape, values.dtype)
        layout[...] = h5py.VirtualSource("absent.h5", name, values.shape)
        file.create_virtual_dataset(name, layout)

    def unwritten(name: str, sequences: int, file: h5py.File, values: np.ndarray) -> None:
        file.create_dataset(name, (sequences, *values.shape[1:]), values.dtype, chunks=(1, *values.shape[1:]))

    def setting(name: str, value: object, file: h5py.File) -> None:
        file.attrs[name] = value

    def deletion(name: str, file: h5py.File) -> None:
        del file.attrs[name]

    with h5py.File(path) as file:
        names, attributes = [*file], [*file.attrs]
    everything: list[Callable[[h5py.File], None]] = []
    for name in names:
        changes: dict[str, Callable[[h5py.File, np.ndarray], object]] = {
            "a group": lambda file, values, name=name: file.create_group(name) and None,
            "linked to itself": lambda file, values, name=name: h5py.SoftLink(f"/{name}"),
            "in a missing file": lambda file, values, name=name: h5py.ExternalLink("absent.h5", name),
            "virtual without source": partial(virtual, name),
            # Zeros: black frames, or a contradiction to other datasets; valid as boxes, labels and collisions.
            "unwritten" + "?" * (name in ("boxes", "labels", "collisions")): partial(unwritten, name, 4),
            "text": lambda file, values: np.full(values.shape, b"x"),
            "complex": lambda file, values: values.astype(np.complex64),
            "short": lambda file, values: values[1:],
            "with an axis": lambda file, values: values[..., None],
            "big-endian?": lambda file, values: values.astype(values.dtype.newbyteorder(">")),
        }
        if name != "collisions":
            changes["missing"] = lambda file, values: None
        found |= {f"{name} {words}": partial(store, name, change) for words, change in changes.items()}
        everything.append(partial(store, name, partial(unwritten, name, 10**12)))
    found["10^12 sequences"] = lambda file: [change(file) for change in everything] and None
    values: dict[str, tuple[Any, ...]] = {
        "count": (-2, 0, 9, 2**62),
        "present": (0, 1),
        "boxes": (np.nan, np.inf, -1),
        "ids": (-1, 3),
        "labels": (-9, 2**62),
        "collisions": (0, 1),
        "frames": (255,),
    }
    for name, choices in values.items():
        unknown = "?" if name in ("labels", "collisions", "frames") else ""  # any content is valid
        for value in choices:
            change = partial(store, name, lambda file, stored, value=value: np.full_like(stored, value))
            found[f"{name} all {value}{unknown}"] = change
    for name in attributes:
        found[f"no {name}" + "?" * (name == "seed")] = partial(deletion, name)
        for value in (-1, 2.5, np.nan, "\u2603", b"\xff", np.zeros((2, 2)), h5py.Empty("f")):
            found[f"{name} {value!r}?"] = partial(setting, name, value)
    for text in ("[]", "{", "NaN", '{"a": 1e999}?', "[" * 5000):
        found[f"parameters {text[:20]}"] = partial(setting, "parameters", text.rstrip("?"))
    return found
