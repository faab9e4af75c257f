# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""docs/model.md: its map is complete and points at code that exists, and its numbers are counted."""

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from torch import nn

from pyro_sqair import guides, models
from pyro_sqair.experiments.presets import PRESETS
from pyro_sqair.experiments.systems import AIRSystem, SQAIRSystem, System, VRNNSystem
from pyro_sqair.nn.backbone import VRNNConfig, conv_vrnn
from pyro_sqair.nn.convolutions import ConvolutionConfig, pedestrian_convolutions
from pyro_sqair.nn.networks import SetEncoder
from pyro_sqair.nn.relations import InteractionConfig, InteractionNetwork, MemoryCoreConfig, RelationalMemoryCore
from pyro_sqair.scene.objects import SceneConfig

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "model.md").read_text(encoding="utf-8")
PROSE = re.sub(r"^```mermaid\n.*?^```", "", PAGE, flags=re.DOTALL | re.MULTILINE)

SITES = {"pres", "where", "what"}
PARTS = {"relations", "proposal", "other", "forward"}  # attributes, arguments and variables
OTHER = {"prop_0", "disc_0", "align_corners=False", "--preset paper"}


@cache
def defined(path: str) -> frozenset[str]:
    """Classes, functions and methods of a file, the last as Class.method."""

    def names(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from names(node.body, f"{node.name}.")

    return frozenset(names(ast.parse((ROOT / path).read_text(encoding="utf-8")).body))


def everything() -> set[str]:
    folders = ("models", "guides", "pyro_sqair")
    return {name for folder in folders for path in (ROOT / folder).rglob("*.py") for name in defined(str(path))}


def located() -> list[tuple[str, str]]:
    """What the page says is in which file: `Name` in `path`, or `Name` and `Name` in `path`."""
    found = []
    for names, path in re.findall(r"((?:`[\w.]+`(?:, | and | or ))*`[\w.]+`) in\s+`([\w/]+\.py)`", PROSE):
        found += [(name, path) for name in re.findall(r"`([\w.]+)`", names)]
    return found


@pytest.mark.parametrize(("name", "path"), sorted(set(located())))
def test_it_is_where_the_page_says(name: str, path: str) -> None:
    if name not in SITES:
        assert name in defined(path)


def test_the_map_is_read() -> None:
    assert len(set(located())) > 60
    assert {("SQAIR.step", "models/sqair.py"), ("paste", "pyro_sqair/scene/spatial.py")} <= set(located())
    assert ("place", "pyro_sqair/scene/spatial.py") in located()  # the first of two
    assert "SQAIR.step" in defined("models/sqair.py") and "SQAIR.stop" not in defined("models/sqair.py")


def test_every_name_exists() -> None:
    """Whatever is set as code is a file, a name of ours, a preset, or one of a few other things."""
    known = everything() | set(PRESETS) | SITES | PARTS | OTHER
    for code in re.findall(r"`([^`]+)`", PROSE):
        assert (ROOT / code).is_file() if "/" in code else code in known, code


def rows(heading: str) -> list[list[str]]:
    """The cells of the table whose first heading begins so, below its headings."""
    lines = PAGE.splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith(f"| {heading}")]
    assert len(starts) == 1
    cells = []
    for line in lines[starts[0] + 2 :]:
        if not line.startswith("|"):
            break
        cells.append([cell.strip() for cell in line.strip("|").split("|")])
    return cells


@pytest.mark.parametrize(
    ("heading", "labels"),
    [
        ("SQAIR |", [f"Eq. {i}" for i in range(1, 16)]),
        ("R-SQAIR |", [f"Eq. {i}" for i in range(1, 6)]),
        ("Algorithm 1,", [str(i) for i in range(1, 7)]),
        ("Algorithm 2,", [str(i) for i in range(1, 17)]),
        ("Algorithm 3,", [str(i) for i in range(1, 14)]),
    ],
)
def test_every_equation_and_line_is_there(heading: str, labels: list[str]) -> None:
    table = rows(heading)
    assert [cells[0].partition(":")[0] for cells in table] == labels
    assert all(len(cells[-1]) > 3 for cells in table)


@pytest.mark.parametrize(("algorithm", "path"), [("2", "guides/propagation.py"), ("3", "guides/discovery.py")])
def test_lines_are_marked_in_the_code(algorithm: str, path: str) -> None:
    """The comments `# line 10` and `# lines 11-12` of the code name lines that there are."""
    marked = set()
    for first, last in re.findall(r"[Ll]ines? (\d+)(?:-(\d+))?", (ROOT / path).read_text(encoding="utf-8")):
        marked |= set(range(int(first), int(last or first) + 1))
    lines = {int(cells[0].partition(":")[0]) for cells in rows(f"Algorithm {algorithm},")}
    # not marked: that j = 0 where h^R is initialised; and in discovery, initialising, j, and breaking off
    assert lines - marked == {"2": {2}, "3": {1, 2, 8, 9}}[algorithm]
    assert marked <= lines


def size(*programs: nn.Module) -> int:
    return sum(p.numel() for p in {p for program in programs for p in program.parameters()})


def stated(text: str) -> int:
    """The number in a cell or a sentence, in which it stands alone."""
    (number,) = re.findall(r"\d[\d,]*\d|\d", text)
    return int(number.replace(",", ""))


GREY = SceneConfig()
BALLS = SceneConfig(num_slots=4, what_dim=5)
PEDESTRIANS = SceneConfig(image_size=(64, 64), glimpse_size=(28, 12))


def built(system: System, scene: SceneConfig = GREY) -> int:
    return size(*system.programs(scene))


def test_sizes_of_the_systems() -> None:
    table = {cells[0]: stated(cells[3]) for cells in rows("system")}
    base = built(SQAIRSystem(), BALLS)
    assert table == {
        "MLP-SQAIR": built(SQAIRSystem()),
        "CONV-SQAIR": built(SQAIRSystem(128, convolutions=ConvolutionConfig())),
        "CONV-SQAIR for pedestrians": built(SQAIRSystem(128, convolutions=pedestrian_convolutions()), PEDESTRIANS),
        "R-SQAIR (IN)": built(SQAIRSystem(relations=InteractionConfig()), BALLS) - base,
        "R-SQAIR (RMC)": built(SQAIRSystem(relations=MemoryCoreConfig()), BALLS) - base,
        "MLP-AIR": built(AIRSystem()),
        "MLP-VRNN": built(VRNNSystem()),
        "CONV-VRNN": built(VRNNSystem(conv_vrnn())),
    }


def test_sizes_of_the_priors_and_guides() -> None:
    priors = {cells[0]: cells[3] for cells in rows("prior")}
    for name, prior in {
        "recurrent": models.GRUPropagationPrior(50, 256),
        "random walk": models.RandomWalkPrior(50, 256),
        "guided walk": models.GuidedWalkPrior(50, 256),
    }.items():
        assert stated(priors[name]) == size(prior)

    counts = {cells[0]: stated(cells[3]) for cells in rows("count")}
    assert counts == {
        "categorical": size(models.CategoricalCount(3)),
        "geometric": size(models.GeometricCount(0.5)),
        "a price per object": size(models.FixedCount(5, 10)),
    }
    assert f"{size(models.AutoregressiveWhere(257)):,} parameters" in PAGE

    guide = guides.SQAIRGuide.build(GREY)
    image, glimpse = guide.discovery.image_encoder, guide.discovery.glimpse_encoder
    assert f"Glimpse encoder ({size(glimpse):,}) and image encoder ({size(image):,})" in PAGE
    table = {cells[0]: cells[3] for cells in rows("guide |")}
    for name, part in {
        "the paper's discovery": guide.discovery,
        "the paper's propagation": guide.propagation,
        "the relation RNN sees the whole image": guides.PropagationGuide(
            glimpse, 50, 256, view=guides.WholeImage(image, 256)
        ),
        "it sees nothing": guides.PropagationGuide(glimpse, 50, 256, view=guides.NoView()),
    }.items():
        assert stated(table[name]) == size(part)


def test_numbers_in_the_text() -> None:
    """What the text says would come of other readings of the papers."""
    wide = replace(pedestrian_convolutions(), encoder_strides=(2, 2, 1, 1))
    conv, _ = SQAIRSystem(128, convolutions=ConvolutionConfig()).programs(GREY)
    before = [nn.Conv2d(a, b, 3) for a, b in ((32, 32), (32, 64), (16, 64), (16, 1))]
    one_bias = 2 * 3 * 256  # GRUs with one bias a gate have that many less
    counted = {
        "MLP-SQAIR, released": built(SQAIRSystem()) - one_bias,
        "SQAIR of balls": built(SQAIRSystem(), BALLS) - one_bias,
        "pedestrians, wide": built(SQAIRSystem(128, convolutions=wide), PEDESTRIANS),
        "maps counted before": built(SQAIRSystem(128, convolutions=ConvolutionConfig()))
        - size(conv.renderer.decoder.layers)
        + size(*before),
        # the encoder, and what reads it: the discovery RNN, and the context of the prior of `where`
        "AIR with an encoder": built(AIRSystem()) + size(SetEncoder(50, 256)) + 256 * (256 + 128),
        "VRNN of D.3": built(VRNNSystem(VRNNConfig(hidden_size=256, hidden_layers=3))),
        "CONV-VRNN of D.3": built(VRNNSystem(replace(conv_vrnn(), hidden_size=256))),
        "small VRNN": built(VRNNSystem(VRNNConfig(hidden_size=128))),
        "output layer": size(conv.renderer.decoder.layers[-1]),
    }
    assert {name: count for name, count in counted.items() if f"{count:,}" not in PAGE} == {}
    assert counted["SQAIR of balls"] + 256**2 - 50**2 == 2_726_166


def test_what_relations_add() -> None:
    table = {cells[0].partition(",")[0]: [stated(cell) for cell in cells[1:]] for cells in rows("| interaction")}
    modules = InteractionNetwork(5), RelationalMemoryCore(5)
    assert table["the module"] == [size(module) for module in modules]
    for name, each in (("prior's GRU", 768), ("relation RNN", 256), ("temporal GRU", 768)):
        assert table[f"e into the {name}"] == [each * module.size for module in modules]
    parts = [table[name] for name in table if name not in ("in all", "published")]
    assert table["in all"] == [sum(part) for part in zip(*parts, strict=True)]
    base = built(SQAIRSystem(), BALLS)
    assert table["in all"] == [
        built(SQAIRSystem(relations=r), BALLS) - base for r in (InteractionConfig(), MemoryCoreConfig())
    ]
