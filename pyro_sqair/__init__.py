# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Sequential Attend, Infer, Repeat (SQAIR) as Pyro programs.

Discovers, propagates and removes the objects of a video without labels (Kosiorek et al. 2018).
"""

import importlib
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

# In a checkout, pyro_sqair.models and pyro_sqair.guides stand one level up; an install has them in here. That
# level holds this package again: as pyro_sqair.pyro_sqair it adds nothing, so that a walk over modules ends.
if __name__ == "pyro_sqair" and Path(__file__).parents[1].joinpath("setup.cfg").is_file():
    __path__.append(str(Path(__file__).parents[1]))

# The public names by folder. They are imported when they are first used (PEP 562), since PyTorch and Pyro take seconds.
_NAMES = {
    "experiments": ("Experiment", "Run", "load", "preset"),
    "models": ("SQAIR", "VRNN"),
    "guides": ("SQAIRGuide", "VRNNGuide"),
    "scene": ("Objects", "SceneConfig"),
    "infer": ("FIVO", "OVIS", "RWS", "SMC", "VIMCO", "check_particles", "check_sites", "evaluate_bounds"),
    "training": ("Trainer", "TrainingConfig"),
    "tracking": ("Filter", "futures", "generate", "infer_objects", "predict", "reconstruct"),
}
_FOLDER_OF = {name: folder for folder, names in _NAMES.items() for name in names}
_FOLDERS = {*_NAMES, "nn", "data", "evaluation", "viz"}
__all__ = ["__version__", *_FOLDER_OF]


def __getattr__(name: str) -> Any:
    if name in _FOLDERS:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _FOLDER_OF:
        return getattr(importlib.import_module(f"{__name__}.{_FOLDER_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_FOLDERS, *_FOLDER_OF})
