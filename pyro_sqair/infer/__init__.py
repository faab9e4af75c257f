# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Estimators and bounds for any Pyro model and guide; nothing here knows of SQAIR."""

from pyro_sqair.infer.bounds import Terms, effective_sample_size, elbo_terms, iwae_bound
from pyro_sqair.infer.sites import check_sites
from pyro_sqair.infer.vimco import VIMCO

__all__ = ["VIMCO", "Terms", "check_sites", "effective_sample_size", "elbo_terms", "iwae_bound"]
