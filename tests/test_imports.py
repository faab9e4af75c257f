# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""A folder imports only from the folders above it (DESIGN, Layout).

Models and guides never import each other; `infer` is for any Pyro program, and imports nothing of ours.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Where each source folder is installed; the others hold scripts, which nothing imports.
INSTALLED = {"pyro_sqair": ("pyro_sqair",), "models": ("pyro_sqair", "models"), "guides": ("pyro_sqair", "guides")}
SCRIPTS = ("examples", "benchmarks", "tests")

ORDER = "scene nn models guides infer data training tracking evaluation viz experiments cli".split()
PROGRAMS = {"models", "guides"}  # only experiments, the command line and scripts know them
MAY_IMPORT = {folder: {*ORDER[: i + 1]} - PROGRAMS for i, folder in enumerate(ORDER)}
MAY_IMPORT |= {
    "package": set(),
    "infer": {"infer"},
    "models": {"scene", "nn", "models"},
    "guides": {"scene", "nn", "guides"},
    "experiments": {"package", *ORDER} - {"cli"},
    "cli": {*ORDER},
    "script": {"package", *ORDER},
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
    """The folder of a dotted name that begins with `pyro_sqair`; "package" for the package itself."""
    return name[1] if len(name) > 1 and name[1] in ORDER else "package"


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


def test_every_folder_of_the_package_has_its_place() -> None:
    folders = {path.parent.name for path in (ROOT / "pyro_sqair").glob("*/__init__.py")}
    assert folders | PROGRAMS == set(ORDER)
    assert [path.name for path in (ROOT / "pyro_sqair").glob("*.py")] == ["__init__.py"], "a loose module"


@pytest.mark.parametrize("path", sources())
def test_imports_and_name_of_a_file(path: str) -> None:
    assert violations(path, (ROOT / path).read_text(encoding="utf-8")) == []
    assert NAMES_THAT_SAY_NOTHING.isdisjoint(Path(path).with_suffix("").parts)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("pyro_sqair/scene/objects.py", "import pyro_sqair.models.sqair"),
        ("pyro_sqair/scene/slots.py", "from ..infer import VIMCO"),
        ("pyro_sqair/scene/program.py", "from .. import training"),
        ("pyro_sqair/tracking/rollout.py", "from pyro_sqair import guides"),
        ("pyro_sqair/__init__.py", "from pyro_sqair.scene import Objects"),
        ("pyro_sqair/infer/vimco.py", "from pyro_sqair.scene import Objects"),
        ("pyro_sqair/infer/vimco.py", "import pyro_sqair"),
        ("pyro_sqair/infer/vimco.py", "def late():\n    from pyro_sqair.scene.spatial import crop"),
        ("pyro_sqair/infer/vimco.py", "import importlib\nimportlib.import_module('pyro_sqair.data')"),
        ("pyro_sqair/training/trainer.py", "from pyro_sqair.models import SQAIR"),
        ("models/sqair.py", "from ..guides.sqair import SQAIRGuide"),
        ("guides/sqair.py", "from pyro_sqair.models.discovery import DiscoveryPrior"),
        ("guides/__init__.py", "from models import SQAIR"),
        ("pyro_sqair/viz/tracks.py", "from pyro_sqair.experiments import Experiment"),
        ("pyro_sqair/experiments/report.py", "from pyro_sqair.cli import main"),
        ("examples/moving_mnist.py", "import models"),
        ("tests/models/test_sqair.py", "from guides.sqair import SQAIRGuide"),
    ],
)
def test_a_violation_is_found(path: str, source: str) -> None:
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("pyro_sqair/infer/vimco.py", "import torch\nfrom pyro_sqair.infer.plates import Plate"),
        ("pyro_sqair/infer/__init__.py", "from .vimco import VIMCO"),
        ("pyro_sqair/data/digits.py", "from pyro_sqair.scene.spatial import boxes"),
        ("models/sqair.py", "from ..scene import Objects\nfrom .renderer import Renderer"),
        ("guides/sqair.py", "from pyro_sqair.guides.discovery import DiscoveryGuide"),
        ("pyro_sqair/tracking/filter.py", "from pyro_sqair.infer import SMC"),
        ("pyro_sqair/experiments/systems.py", "from pyro_sqair.models import SQAIR\nfrom ..guides import SQAIRGuide"),
        ("examples/moving_mnist.py", "import pyro_sqair\nfrom pyro_sqair.cli import main"),
        ("examples/moving_mnist.py", "from torchvision import models"),
    ],
)
def test_an_allowed_import_passes(path: str, source: str) -> None:
    assert violations(path, source) == []
