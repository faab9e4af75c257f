# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Training: the loop, its curriculum and learning rate, and checkpoints that resume bit for bit."""

from pyro_sqair.training.averaging import WeightAverage
from pyro_sqair.training.bank import Bank, draw_bank
from pyro_sqair.training.config import TrainingConfig, published
from pyro_sqair.training.log import read_log
from pyro_sqair.training.prior import PriorScore, fit_prior, fitting, score_prior
from pyro_sqair.training.schedule import learning_rate, sequence_length, work
from pyro_sqair.training.trainer import Trainer
from pyro_sqair.training.weights import load_weights, save_weights

__all__ = [
    "Bank",
    "PriorScore",
    "Trainer",
    "TrainingConfig",
    "WeightAverage",
    "draw_bank",
    "fit_prior",
    "fitting",
    "learning_rate",
    "load_weights",
    "published",
    "read_log",
    "save_weights",
    "score_prior",
    "sequence_length",
    "work",
]
