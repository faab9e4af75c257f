# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Experiments: videos, a system of the papers and a training recipe under one name."""
