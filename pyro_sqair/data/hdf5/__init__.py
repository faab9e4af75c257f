# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Files of sequences: writing, reading and describing them; and those of R-NEM."""
