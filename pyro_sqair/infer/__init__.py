# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Estimators and bounds for any Pyro model and guide."""

from pyro_sqair.infer.bounds import Bounds, DataMean, DatumEstimate, evaluate_bounds, mean_over_data
from pyro_sqair.infer.dreg import DReG
from pyro_sqair.infer.fivo import FIVO
from pyro_sqair.infer.iwae import IWAEWithoutScore
from pyro_sqair.infer.multi_sample import MultiSampleELBO
from pyro_sqair.infer.nvil import NVIL, NeuralBaseline
from pyro_sqair.infer.ovis import OVIS
from pyro_sqair.infer.particles import check_particles
from pyro_sqair.infer.released import ReleasedSQAIRSignal
from pyro_sqair.infer.renyi import RenyiWarmup
from pyro_sqair.infer.sites import check_sites
from pyro_sqair.infer.smc import SMC, Filtered, Particles, smc_evidence
from pyro_sqair.infer.vimco import VIMCO
from pyro_sqair.infer.wake import RWS

__all__ = [
    "FIVO",
    "NVIL",
    "OVIS",
    "RWS",
    "SMC",
    "VIMCO",
    "Bounds",
    "DReG",
    "DataMean",
    "DatumEstimate",
    "Filtered",
    "IWAEWithoutScore",
    "MultiSampleELBO",
    "NeuralBaseline",
    "Particles",
    "ReleasedSQAIRSignal",
    "RenyiWarmup",
    "check_particles",
    "check_sites",
    "evaluate_bounds",
    "mean_over_data",
    "smc_evidence",
]
