# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Balls that collide: their motion, and what it looks like."""
