# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Imports run one way: toolkit <- models, guides <- training, evaluation, viz <- presets, report, online <- cli,
examples.

Models and guides never import each other; `infer` is for any Pyro model, and imports nothing of ours.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Where each source folder is installed; the others hold scripts, which nothing imports.
INSTALLED = {
    "pyro_sqair": ("pyro_sqair",),
    "models": ("pyro_sqair", "models"),
    "guides": ("pyro_sqair", "guides"),
}
SCRIPTS = ("examples", "benchmarks", "tests")

# What stands directly in pyro_sqair/ is the toolkit, but for the package's __init__, the systems and presets, the
# report, the online filter (which needs infer) and the command line.
LAYERS = (
    "infer",
    "data",
    "models",
    "guides",
    "training",
    "evaluation",
    "viz",
    "systems",
    "videos",
    "presets",
    "report",
    "online",
    "cli",
)
TOP = {"package", "toolkit", "infer", "data", "models", "guides", "training", "evaluation", "viz"}
MAY_IMPORT = {
    "package": set(),
    "infer": {"infer"},
    "toolkit": {"toolkit"},
    "data": {"data", "toolkit"},
    "models": {"models", "toolkit"},
    "guides": {"guides", "toolkit"},
    "training": TOP,
    "evaluation": TOP,
    "viz": TOP,
    "systems": TOP,
    "videos": {"data", "toolkit"},
    "presets": {*TOP, "systems", "videos"},
    "report": TOP,
    "online": TOP,
    "cli": {*TOP, "systems", "videos", "presets", "report", "online", "cli"},
    "script": {*TOP, "systems", "videos", "presets", "report", "online", "cli"},
}

NAMES_THAT_SAY_NOTHING = {"util", "utils", "helper", "helpers", "misc", "common"}


def sources() -> list[str]:
    """Every Python file of the project, as a path from its root."""
    paths = (path for folder in (*INSTALLED, *SCRIPTS) for path in (ROOT / folder).rglob("*.py"))
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)


def package_of(path: str) -> tuple[str, ...]:
    """The package that the file belongs to, as installed; empty for a script."""
    folder, *parts = Path(path).parts
    return (*INSTALLED[folder], *parts[:-1]) if folder in INSTALLED else ()


def layer_of(name: tuple[str, ...]) -> str:
    """The layer of a dotted name that begins with `pyro_sqair`."""
    if len(name) == 1:
        return "package"
    return name[1] if name[1] in LAYERS else "toolkit"


def layer_of_file(path: str) -> str:
    """The layer of a file, by its path from the root."""
    package, stem = package_of(path), Path(path).stem
    if not package:
        return "script"
    return layer_of(package if stem == "__init__" else (*package, stem))


def imported(source: str, package: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Each import in a module of `package`, anywhere in its text: the line, and the full name in parts."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, tuple(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = tuple(node.module.split(".")) if node.module else ()
            for alias in node.names:
                # The last part may be a module, or a name inside one: layer_of reads only the second part.
                yield node.lineno, (*base, *module, alias.name)
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            argument = node.args[0]
            if called in ("import_module", "__import__") and isinstance(argument, ast.Constant):
                yield node.lineno, tuple(str(argument.value).split("."))


def violations(path: str, source: str) -> list[str]:
    """The imports in the file that its layer may not have, each with its line."""
    layer = layer_of_file(path)
    found = []
    for line, name in imported(source, package_of(path)):
        if name[0] in ("models", "guides"):
            found.append(f"{path}:{line}: {name[0]} is installed as pyro_sqair.{name[0]}: import it by that name")
        elif name[0] == "pyro_sqair" and layer_of(name) not in MAY_IMPORT[layer]:
            found.append(f"{path}:{line}: {layer} may not import {'.'.join(name)} ({layer_of(name)})")
    return found


def test_every_folder_of_the_package_is_looked_at() -> None:
    assert {Path(path).parts[0] for path in sources()} >= {*INSTALLED, "tests"}
    assert set(LAYERS) <= set(MAY_IMPORT)
    folders = {path.parent.name for path in (ROOT / "pyro_sqair").glob("*/__init__.py")}
    assert folders <= set(LAYERS), "a new subpackage needs its layer"


@pytest.mark.parametrize("path", sources())
def test_imports_run_one_way(path: str) -> None:
    assert violations(path, (ROOT / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", sources())
def test_file_has_a_name_that_says_something(path: str) -> None:
    assert NAMES_THAT_SAY_NOTHING.isdisjoint(Path(path).with_suffix("").parts)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("pyro_sqair/scene.py", "import pyro_sqair.models.sqair"),
        ("pyro_sqair/rollout.py", "from pyro_sqair import guides"),
        ("pyro_sqair/slots.py", "from .infer import VIMCO"),
        ("pyro_sqair/rollout.py", "from pyro_sqair.online import Filter"),
        ("pyro_sqair/slots.py", "from . import training"),
        ("pyro_sqair/__init__.py", "from pyro_sqair.scene import Objects"),
        ("pyro_sqair/infer/vimco.py", "from pyro_sqair.scene import Objects"),
        ("pyro_sqair/infer/vimco.py", "from ..scene import Objects"),
        ("pyro_sqair/infer/vimco.py", "import pyro_sqair"),
        ("pyro_sqair/infer/deep/__init__.py", "from ...scene import Objects"),
        ("pyro_sqair/infer/vimco.py", "def late():\n    from pyro_sqair.spatial import crop"),
        ("pyro_sqair/infer/vimco.py", "import importlib\nimportlib.import_module('pyro_sqair.data')"),
        ("pyro_sqair/data/digits.py", "if TYPE_CHECKING:\n    from pyro_sqair.training import Trainer"),
        ("models/sqair.py", "from pyro_sqair.guides import SQAIRGuide"),
        ("models/sqair.py", "from ..guides.sqair import SQAIRGuide"),
        ("guides/sqair.py", "from pyro_sqair.models.discovery import DiscoveryPrior"),
        ("guides/sqair.py", "import torch, pyro_sqair.viz"),
        ("guides/__init__.py", "from models import SQAIR"),
        ("pyro_sqair/viz/tracks.py", "from pyro_sqair.cli import main"),
        ("pyro_sqair/training/config.py", "from pyro_sqair.presets import embedded_digits"),
        ("examples/moving_mnist.py", "import models"),
        ("tests/models/test_sqair.py", "from guides.sqair import SQAIRGuide"),
    ],
)
def test_a_violation_is_found(path: str, source: str) -> None:
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("pyro_sqair/rollout.py", "from pyro_sqair.scene import Objects"),
        ("pyro_sqair/infer/vimco.py", "import torch\nfrom pyro_sqair.infer.plates import particle_plate"),
        ("pyro_sqair/infer/__init__.py", "from .vimco import VIMCO"),
        ("pyro_sqair/data/digits.py", "from pyro_sqair.spatial import boxes"),
        ("models/sqair.py", "from ..scene import Objects\nfrom .renderer import Renderer"),
        ("guides/sqair.py", "from pyro_sqair.guides.discovery import DiscoveryGuide"),
        ("pyro_sqair/online.py", "from pyro_sqair.infer import SMC\nfrom pyro_sqair.rollout import Rollout"),
        ("pyro_sqair/training/config.py", "from pyro_sqair import __version__"),
        (
            "pyro_sqair/training/trainer.py",
            "from pyro_sqair.infer import VIMCO\nfrom pyro_sqair.models import SQAIR",
        ),
        ("examples/moving_mnist.py", "import pyro_sqair\nfrom pyro_sqair.cli import main"),
        ("examples/moving_mnist.py", "from torchvision import models"),
    ],
)
def test_an_allowed_import_passes(path: str, source: str) -> None:
    assert violations(path, source) == []
