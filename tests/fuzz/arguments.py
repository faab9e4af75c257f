# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Every option of every command, with valid and invalid values of its type."""

import random
import shutil
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import partial
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from case import SMALL, Case, write_data

from pyro_sqair.cli import main
from pyro_sqair.cli.commands import DataCommand, FitPrior, Train

# More of it takes longer.
WORK = {"train", "test", "generalise", "length", "sequences", "steps", "num_frames", "scenes"}
INTEGERS = ("-1", "0", "1", "3", "-9", str(2**31), str(2**63), str(10**30), "9" * 5000, "1.5", "nan", "", "x", "\u0663")
FLOATS = ("nan", "inf", "-inf", "-1", "0", "0.5", "1e-320", "1e30", "1e308", "", "x", "1_0")
WORDS = ("", " ", "x", "auto", "CUDA", "mps", "cuda:99", "cpu:1", "\u2603", "a\u0000b", ".", "/dev/null/x", "y" * 999)


def arguments() -> list[Case]:
    """The cases."""
    rng, cases = random.Random(3), []
    write_data()
    commands = {get_args(kind)[1].name: get_args(kind)[0] for kind in get_args(DataCommand)}
    commands |= {"train": Train, "fit-prior": FitPrior}
    small = {
        "digits": "made --train 2 --test 1 --length 2 --overwrite",
        "mnist": "made --mnist absent --train 2 --test 1 --length 2",
        "balls": "made --train 2 --test 1 --generalise 1 --length 2 --overwrite",
        "video": "absent made.h5 --num-frames 2",
        "convert": "data/train.h5 made.h5",
        "info": "data/train.h5",
        "show": "data/train.h5 --out shown --overwrite --sequences 1",
        "train": f"data/train.h5 --out new {' '.join(SMALL)}",
        "fit-prior": "first --out new --scenes 20 --steps 1 --sequences 1 --threads 1",
    }

    def call(words: list[str]) -> int:
        shutil.rmtree("new", ignore_errors=True)
        return main(words)

    for name, kind in commands.items():
        base = [*([] if name in ("train", "fit-prior") else ["data"]), name, *small[name].split()]
        for option, annotation in options(kind):
            for _ in range(3):
                given = [f"--{option.replace('_', '-')}", *values(annotation, rng)]
                if option in WORK and annotation is int:
                    given[1] = rng.choice(("-1", "0", "1", "3", "", "x", "1e3"))
                cases.append(Case(f"{name}: {given}", False, partial(call, [*base, *given])))
    return cases


def options(kind: type) -> Iterator[tuple[str, Any]]:
    """The options of a command by name, with their types; those of nested configurations, too."""
    for entry, annotation in get_type_hints(kind, include_extras=True).items():
        plain = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
        if is_dataclass(plain):
            yield from options(plain)
        elif entry in {field.name for field in fields(kind)} and "Positional" not in str(annotation):
            yield entry, plain


def values(kind: Any, rng: random.Random) -> list[str]:
    """Words for an option of this type."""
    arguments = get_args(kind)
    if get_origin(kind) is Literal:
        return [rng.choice((*arguments, *WORDS))]
    if get_origin(kind) is tuple:
        repeated = arguments[-1] is Ellipsis
        number = rng.randrange(4) if repeated else len(arguments)
        return [word for i in range(number) for word in values(arguments[0 if repeated else i], rng)]
    if arguments:  # a union
        return values(rng.choice([argument for argument in arguments if argument is not NoneType]), rng)
    return [] if kind is bool else [rng.choice({int: INTEGERS, float: FLOATS}.get(kind, WORDS))]
