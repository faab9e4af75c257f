# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Sequential Attend, Infer, Repeat (SQAIR) as Pyro programs.

Discovers, propagates and forgets the objects of a video without labels (Kosiorek et al. 2018).
"""

from pathlib import Path

__version__ = "0.1.0"

# In a checkout, pyro_sqair.models and pyro_sqair.guides stand one level up; an install has them in here. That
# level holds this package again: as pyro_sqair.pyro_sqair it adds nothing, so that a walk over modules ends.
if __name__ == "pyro_sqair" and Path(__file__).parents[1].joinpath("setup.cfg").is_file():
    __path__.append(str(Path(__file__).parents[1]))
