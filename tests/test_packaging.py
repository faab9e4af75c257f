# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The wheel contains every module, and installs into a fresh virtual environment."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Source folder -> installed package.
PACKAGES = {"pyro_sqair": "pyro_sqair", "models": "pyro_sqair.models", "guides": "pyro_sqair.guides"}

# Import names of the optional dependencies. All modules must import without them.
OPTIONAL = ("sklearn", "pooch", "cv2", "tensorboard")

IMPORT = f"""
import importlib, json, sys
sys.modules.update(dict.fromkeys({OPTIONAL!r}))  # None makes the import fail, as if not installed
print(json.dumps({{name: importlib.import_module(name).__file__ for name in sys.argv[1:]}}))
"""

WALK = """
import json, pkgutil
import pyro_sqair
print(json.dumps([module.name for module in pkgutil.walk_packages(pyro_sqair.__path__, "pyro_sqair.")]))
"""


def modules() -> dict[str, Path]:
    """Maps the installed name of every module to its source file."""
    found = {}
    for folder, package in PACKAGES.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            if parts[-1] == "__init__":
                parts = parts[:-1]
            found[".".join((package, *parts))] = path
    return found


def execute(*command: str | Path, cwd: Path) -> str:
    """The output of a command that runs without PYTHON* variables, so that it does not see the checkout."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, because setuptools would reuse stale files of a build/ folder."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation")
    execute(*pip, "--wheel-dir", built, source, cwd=source)
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A fresh virtual environment with the wheel: its interpreter and its site-packages folder."""
    home = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(home, with_pip=False)
    folders = {"base": str(home), "platbase": str(home)}
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    site_packages = Path(sysconfig.get_path("purelib", "venv", folders))
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps")
    execute(*pip, wheel, cwd=home)
    # Dependencies come from the environment that runs this test. An editable install of this package there has no
    # effect, because Python ignores .pth files in folders that a .pth file adds.
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages / "dependencies.pth").write_text("\n".join(sorted(dependencies)))
    return python, site_packages


def test_wheel_contains_every_module_and_no_other_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = archive.namelist()
    names = {
        file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in files if file.endswith(".py")
    }
    assert names == set(modules())
    assert {file.split("/")[0] for file in files if ".dist-info/" not in file} == {"pyro_sqair"}
    assert "pyro_sqair/py.typed" in files


def test_wheel_has_the_version_of_the_package(wheel: Path) -> None:
    import pyro_sqair

    assert wheel.name == f"pyro_sqair-{pyro_sqair.__version__}-py3-none-any.whl"


def test_installed_modules_import_outside_the_checkout(installed: tuple[Path, Path], tmp_path: Path) -> None:
    python, site_packages = installed
    walked = json.loads(execute(python, "-c", WALK, cwd=tmp_path))
    assert {"pyro_sqair", *walked} == set(modules())
    files = json.loads(execute(python, "-c", IMPORT, *modules(), cwd=tmp_path))
    outside = {name: file for name, file in files.items() if not Path(file).is_relative_to(site_packages)}
    assert not outside


def test_all_modules_come_from_the_checkout_inside_it(installed: tuple[Path, Path]) -> None:
    python, _ = installed
    files = json.loads(execute(python, "-c", IMPORT, *modules(), cwd=ROOT))
    assert {name: Path(file) for name, file in files.items()} == modules()
