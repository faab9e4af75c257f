# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""HDF5 files of sequences: writing, reading and summarising them, and reading those of R-NEM."""
