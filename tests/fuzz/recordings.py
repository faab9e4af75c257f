# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Folders of images and files of ground truth, converted by `data video`."""

import random
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from case import Case, cut, flip

from pyro_sqair.cli import main


def recordings() -> list[Case]:
    """The cases."""
    rng, cases = random.Random(2), []
    images, truth = Path("images"), Path("gt.txt")
    images.mkdir(exist_ok=True)
    noise = np.random.default_rng(0).integers(90, 110, (32, 40, 3), dtype=np.uint8)
    for t in range(6):
        frame = noise.copy()
        frame[8:16, 3 + 4 * t : 10 + 4 * t] = 250
        cv2.imwrite(str(images / f"{t}.png"), frame)
    good = "".join(f"{t + 1},1,{3 + 4 * t},8,7,8,1,1,1\n" for t in range(6))
    image = (images / "3.png").read_bytes()
    small = cv2.imencode(".png", noise[:20])[1].tobytes()

    def convert(source: Path, options: tuple[str, ...], name: Path, new: bytes) -> int:
        truth.write_text(good)
        (images / "3.png").write_bytes(image)
        name.write_bytes(new)
        sizes = "--num-frames 2 --sequences 4 --crop 16 --validation-fraction 0 --min-objects 0 --overwrite".split()
        return main(["data", "video", str(source), "video.h5", *sizes, *options])

    given = ("--ground-truth", str(truth))
    pictures = {"cut": cut(image, rng), "empty": b"", "text": b"words", "small": small, "gif": b"GIF89a\x01\x00"}
    for name, new in {**pictures, **{f"flip {i}": flip(image, rng) for i in range(10)}}.items():
        cases.append(Case(f"image: {name}", name in pictures, partial(convert, images, (), images / "3.png", new)))
    for name, new in {**pictures, "lines": b"a,b\n" * 999}.items():
        cases.append(Case(f"video: {name}", name != "small", partial(convert, Path("film"), (), Path("film"), new)))
    for column in range(9):
        for value in rng.sample(("1e30", "1e19", "nan", "inf", "-1", "0", "0.5", "", "x", "\u0663", "9" * 400), 4):
            row = [*good.splitlines()[2].split(",")[:column], value, *good.splitlines()[2].split(",")[column + 1 :]]
            new = good.replace(good.splitlines()[2], ",".join(row)).encode()
            refused = value in ("1e30", "nan", "inf", "", "x") and column < 6
            cases.append(Case(f"ground truth: {row}", refused, partial(convert, images, given, truth, new)))
    flips = {f"flip {i}": flip(good.encode(), rng) for i in range(10)}
    for name, new in {"empty": b"", "zeros": b"\0" * 99, **flips}.items():
        cases.append(Case(f"ground truth: {name}", name not in flips, partial(convert, images, given, truth, new)))
    info = "[Sequence]\nimWidth={}\nimHeight=32\nseqLength=6\n"
    for text in (*map(info.format, ("x", "1e9", -40, "%(x)s")), "[Sequence", "\0", "[DEFAULT]"):
        call = partial(convert, images, given, Path("seqinfo.ini"), text.encode())
        cases.append(Case(f"seqinfo.ini: {text!r}", True, call))
    return cases
