# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Networks: perceptrons and recurrent cells, convolutions, relations between objects, the VRNN backbone."""
