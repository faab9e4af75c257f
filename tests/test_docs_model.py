# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""docs/model.md: all equations and lines are there, all names exist in the files given, and numbers are correct."""

import ast
import re
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
# Attributes, arguments and variables, and text that is set as code.
OTHER = {"relations", "other", "align_corners=False", "--preset paper"}


@cache
def defined(path: str) -> frozenset[str]:
    """Classes, functions and methods of a file; a method as Class.method."""
    names = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{method.name}" for method in node.body if isinstance(method, ast.FunctionDef)}
    return frozenset(names)


def test_names_are_defined_in_the_files_given() -> None:
    """The page says `Name` in `path`, or `Name` and `Name` in `path`."""
    found = set()
    for names, path in re.findall(r"((?:`[\w.]+`(?:, | and | or ))*`[\w.]+`) in\s+`([\w/]+\.py)`", PROSE):
        found |= {(name, path) for name in re.findall(r"`([\w.]+)`", names) if name not in SITES}
    assert {(name, path) for name, path in found if name not in defined(path)} == set()
    assert len(found) > 60
    assert {("SQAIR.step", "models/sqair.py"), ("place", "pyro_sqair/scene/spatial.py")} <= found
    assert "SQAIR.stop" not in defined("models/sqair.py")


def test_every_name_exists() -> None:
    """Text set as code is a file, a name of the library, a preset, a site, or one of `OTHER`."""
    files = (path for folder in ("models", "guides", "pyro_sqair") for path in (ROOT / folder).rglob("*.py"))
    known = set(PRESETS) | SITES | OTHER | {name for path in files for name in defined(str(path))}
    for code in re.findall(r"`([^`]+)`", PROSE):
        assert (ROOT / code).is_file() if "/" in code else code in known, code


def rows(heading: str) -> list[list[str]]:
    """The cells of the table whose header starts with `heading`, without the header."""
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
def test_every_equation_and_line_is_listed(heading: str, labels: list[str]) -> None:
    table = rows(heading)
    assert [cells[0].partition(":")[0] for cells in table] == labels
    assert all(len(cells[-1]) > 3 for cells in table)


@pytest.mark.parametrize(("algorithm", "path"), [("2", "guides/propagation.py"), ("3", "guides/discovery.py")])
def test_comments_give_the_lines(algorithm: str, path: str) -> None:
    """Comments such as `# line 10` and `# lines 11-12` cover the algorithm, and no other lines."""
    marked = set()
    for first, last in re.findall(r"[Ll]ines? (\d+)(?:-(\d+))?", (ROOT / path).read_text(encoding="utf-8")):
        marked |= set(range(int(first), int(last or first) + 1))
    lines = {int(cells[0].partition(":")[0]) for cells in rows(f"Algorithm {algorithm},")}
    # Without a comment: j = 0 in propagation; initialisation, j and the end of the loop in discovery.
    assert lines - marked == {"2": {2}, "3": {1, 2, 8, 9}}[algorithm]
    assert marked <= lines


def size(*programs: nn.Module) -> int:
    return sum(p.numel() for p in {p for program in programs for p in program.parameters()})


def stated(text: str) -> int:
    """The only number in a cell."""
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
    priors = {cells[0]: stated(cells[3]) for cells in rows("prior")}
    assert priors == {
        "recurrent": size(models.GRUPropagationPrior(50, 256)),
        "random walk": size(models.RandomWalkPrior(50, 256)),
        "guided walk": size(models.GuidedWalkPrior(50, 256)),
    }
    counts = {cells[0]: stated(cells[3]) for cells in rows("count")}
    assert counts == {
        "categorical": size(models.CategoricalCount(3)),
        "geometric": size(models.GeometricCount(0.5)),
        "fixed cost per object": size(models.FixedCount(5, 10)),
    }
    assert f"{size(models.AutoregressiveWhere(257)):,} parameters" in PAGE

    _, guide = SQAIRSystem().programs(GREY)
    image, glimpse = guide.discovery.image_encoder, guide.discovery.glimpse_encoder
    assert f"glimpse encoder ({size(glimpse):,}) and image encoder ({size(image):,})" in PAGE
    follow, whole = guides.PropagationGuide, guides.WholeImage(image, 256)
    assert {cells[0]: stated(cells[3]) for cells in rows("guide |")} == {
        "discovery": size(guide.discovery),
        "propagation": size(guide.propagation),
        "propagation, relation RNN sees the whole image": size(follow(glimpse, 256, view=whole)),
        "propagation, relation RNN sees nothing": size(follow(glimpse, 256, view=guides.NoView())),
        "no propagation": 0,
    }


def test_numbers_in_the_text() -> None:
    """Numbers of parameters for other readings of the papers."""
    wide = replace(pedestrian_convolutions(), encoder_strides=(2, 2, 1, 1))
    conv, _ = SQAIRSystem(128, convolutions=ConvolutionConfig()).programs(GREY)
    before = [nn.Conv2d(a, b, 3) for a, b in ((32, 32), (32, 64), (16, 64), (16, 1))]
    one_bias = 2 * 3 * 256  # the difference for GRUs with one bias per gate
    counted = {
        "MLP-SQAIR, released": built(SQAIRSystem()) - one_bias,
        "SQAIR of balls": built(SQAIRSystem(), BALLS) - one_bias,
        "pedestrians, wide": built(SQAIRSystem(128, convolutions=wide), PEDESTRIANS),
        "maps counted before": built(SQAIRSystem(128, convolutions=ConvolutionConfig()))
        - size(conv.renderer.decoder.layers)
        + size(*before),
        # the encoder, and its weights in the discovery RNN and in the prior of `where`
        "AIR with an encoder": built(AIRSystem()) + size(SetEncoder(50, 256)) + 256 * (256 + 128),
        "VRNN of D.3": built(VRNNSystem(VRNNConfig(hidden_size=256, hidden_layers=3))),
        "CONV-VRNN of D.3": built(VRNNSystem(replace(conv_vrnn(), hidden_size=256))),
        "small VRNN": built(VRNNSystem(VRNNConfig(hidden_size=128))),
        "output layer": size(conv.renderer.decoder.layers[-1]),
    }
    assert {name: count for name, count in counted.items() if f"{count:,}" not in PAGE} == {}
    assert counted["SQAIR of balls"] + 256**2 - 50**2 == 2_726_166


def test_parameters_of_relations() -> None:
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
