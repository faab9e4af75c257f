# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""`python -m pyro_sqair.cli`: the command line where `pyro-sqair` is not on the path."""

import sys

from pyro_sqair.cli import main

if __name__ == "__main__":
    sys.exit(main())
