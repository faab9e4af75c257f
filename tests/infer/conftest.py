# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Makes the modules of this folder that are not tests importable: what several of its tests compare with."""

import sys
from pathlib import Path

# pytest's importlib mode leaves sys.path alone, and a fixture would come too late for parametrisation.
sys.path.insert(0, str(Path(__file__).parent))
