# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""What moves before a static camera, as sequences."""
