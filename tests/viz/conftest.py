# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

import sys
from pathlib import Path

# pytest's importlib mode does not add the folder of a test to sys.path.
sys.path.insert(0, str(Path(__file__).parent))
