# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Makes the modules of this folder that several tests share importable."""

import sys
from pathlib import Path

# pytest's importlib mode does not change sys.path, and fixtures run after parametrisation.
sys.path.insert(0, str(Path(__file__).parent))
