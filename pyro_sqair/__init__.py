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

# The public names, each with the module it comes from. They are imported when they are first used (PEP 562), since
# PyTorch and Pyro take seconds to import.
_PUBLIC = {
    "load": "experiments",
    "Experiment": "experiments",
    "Run": "experiments",
    "preset": "experiments",
    "SQAIR": "models",
    "VRNN": "models",
    "SQAIRGuide": "guides",
    "VRNNGuide": "guides",
    "SceneConfig": "scene",
    "Objects": "scene",
    "VIMCO": "infer",
    "OVIS": "infer",
    "RWS": "infer",
    "FIVO": "infer",
    "SMC": "infer",
    "check_sites": "infer",
    "evaluate_bounds": "infer",
    "Trainer": "training",
    "TrainingConfig": "training",
    "Filter": "tracking",
    "infer_objects": "tracking",
    "reconstruct": "tracking",
    "predict": "tracking",
    "futures": "tracking",
    "generate": "tracking",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
