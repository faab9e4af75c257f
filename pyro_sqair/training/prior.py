# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Fits the prior of scenes alone, to a bank of a guide's draws (contract C10).

The ELBO depends on the priors only through E_q[log p(z)]. With the guide held fixed, a prior that maximises the mean of
log p(z) over the guide's draws maximises the ELBO, and no images are needed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from pyro_sqair.data.sequences import require
from pyro_sqair.infer.sites import quoted, sample_sites
from pyro_sqair.scene.program import Program
from pyro_sqair.training.bank import Bank, site_values
from pyro_sqair.training.config import TrainingConfig
from pyro_sqair.training.interruption import Interrupted
from pyro_sqair.training.trainer import Trainer
from pyro_sqair.training.weights import load_weights

_SCORED_AT_A_TIME = 250  # sequences


class PriorScore(NamedTuple):
    """Log-probability of scenes under a prior, in nats, with standard errors over sequences.

    Attributes:
        discovery: log p^D of a sequence, divided by its number of frames; NaN if discoveries are given.
        propagation: log p^P of all sequences, divided by the number of objects propagated to all frames; NaN if there
            are none or propagation is given.
        discovery_error: standard error of ``discovery``.
        propagation_error: standard error of ``propagation``.
    """

    discovery: float
    propagation: float
    discovery_error: float
    propagation_error: float


def fitting(steps: int = 1500, length: int = 12) -> TrainingConfig:
    """The recipe of :func:`fit_prior`.

    Args:
        steps: number of updates; 1500 take about a minute on one core, with four objects in 12 frames.
        length: frames of the scenes.
    """
    return TrainingConfig(
        steps=steps,
        batch_size=64,
        num_particles=1,
        learning_rate=3e-3,
        final_learning_rate=1e-5,
        warmup_steps=min(100, steps // 2),
        clip_norm=20.0,
        curriculum=((length, 1.0),),
        validate_every=250,
    )


def fit_prior(
    prior: Program,
    bank: Bank,
    out: str | Path,
    config: TrainingConfig | None = None,
    held_out: Bank | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> PriorScore:
    """Fits a prior to the scenes of a bank by maximum likelihood; continues the fit of a folder, as `Trainer` does.

    Args:
        prior: a :class:`~pyro_sqair.models.ScenePrior`, whose weights are changed. It must share no parameters with the
            guide, whose draws would change with them; :func:`copy.deepcopy` of a model's priors shares none.
            ``given_discovery`` or ``given_propagation`` in it leaves that part out.
        bank: scenes to fit to.
        out: folder of the checkpoints and the log.
        config: the default is :func:`fitting`.
        held_out: scenes to validate on; by default a tenth of the bank, which is then not fitted to.
        identity: see `Trainer`.
        progress: whether to show a progress line.

    Returns:
        The score of the held-out scenes.

    Raises:
        ValueError: if the prior draws other sites or sizes than the bank has, has no parameters or parameters of the
            bank's guide, or the bank has nothing to fit it to, such as a single frame.
    """
    trained = {id(parameter) for parameter in prior.parameters()}
    require(trained, "a prior with parameters to fit", "none; score_prior judges it")
    shared = trained & {id(parameter) for parameter in (bank.guide.parameters() if bank.guide else ())}
    require(not shared, "a prior without parameters of the guide, such as a copy.deepcopy", f"{len(shared)} of them")
    if held_out is None:
        bank, held_out = bank.split()
    config = config or fitting(length=bank.draws.shape[1])
    replay = Replay(prior)
    replay.check_draws(held_out)
    trainer = Trainer(
        replay,
        nn.Identity(),  # a guide without sites, since all sites of the model are observed
        Trace_ELBO(),
        bank,
        config,
        Path(out),
        validate=lambda _: score_prior(prior, held_out)._asdict(),
        identity=identity,
        progress=progress,
    )
    if not trainer.complete():
        print("the same call or command continues it", file=sys.stderr)
        raise Interrupted
    load_weights(trainer.folder.weights, replay, nn.Identity(), trainer.identity)  # averaged, if there is an average
    return score_prior(prior, held_out)


@torch.no_grad()
def score_prior(prior: Program, bank: Bank) -> PriorScore:
    """The log-probability of scenes under any prior, with or without parameters.

    Args:
        prior: a :class:`~pyro_sqair.models.ScenePrior`.
        bank: scenes that the prior was not fitted to.

    Raises:
        ValueError: if the prior draws other sites or sizes than the bank has.
    """
    replay = Replay(prior)
    replay.check_draws(bank)
    present = bank.draws[..., 0].double()
    counts = {"disc": present.new_full((len(bank),), present.shape[1]), "prop": present[:, :, 1].sum((1, 2))}
    totals = {phase: torch.zeros(len(bank), dtype=torch.float64) for phase in counts}
    counted = dict.fromkeys(counts, False)
    with pyro.validation_enabled(False), pyro.get_param_store().scope():
        for start in range(0, len(bank), _SCORED_AT_A_TIME):
            rows = slice(start, start + _SCORED_AT_A_TIME)
            trace = poutine.trace(replay, graph_type="flat").get_trace(bank.draws[rows].transpose(0, 1))
            trace.compute_log_prob()
            for name, site in sample_sites(trace).items():
                phase = name.split("/")[1].split("_")[0]
                if site["mask"] is not False:
                    totals[phase][rows] += site["log_prob"].double().cpu()
                    counted[phase] = True

    def ratio(phase: str) -> tuple[float, float]:
        total, count = totals[phase], counts[phase].cpu()
        if not counted[phase] or not count.sum():
            return math.nan, math.nan
        mean = total.sum() / count.sum()
        return mean.item(), ((total - mean * count).std() / (count.mean() * math.sqrt(len(count)))).item()

    (discovery, discovery_error), (propagation, propagation_error) = ratio("disc"), ratio("prop")
    return PriorScore(discovery, propagation, discovery_error, propagation_error)


class Replay(nn.Module):
    """A scene prior as a program of stored scenes [T, B, 2, N, 1 + 4 + D]: all its sites are observed.

    Args:
        prior: a scene prior.
    """

    def __init__(self, prior: Program) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, draws: Tensor) -> None:
        """Runs the prior on the draws."""
        scene = self.prior.scene
        frames = draws.new_empty(0, draws.shape[1], scene.channels, *scene.image_size)
        poutine.condition(self.prior, data=site_values(draws))(frames, len(draws))

    @torch.no_grad()
    def check_draws(self, bank: Bank) -> None:
        """Checks on one scene that the prior draws what the bank has.

        Raises:
            ValueError: if it draws other sites or sizes, has parameters outside modules, or the draws of all its sites
                are given.
        """
        scene = self.prior.scene
        ours, theirs = (f"{s.num_slots} slots and `what` of {s.what_dim} dimensions" for s in (scene, bank.scene))
        require(ours == theirs, f"a bank with {ours}, as the prior has", f"one with {theirs}")
        full = bank.draws[bank.draws[..., 0].sum((1, 2, 3)).argmax()].unsqueeze(1)
        with pyro.get_param_store().scope():  # an empty store: see Trainer.run
            trace = poutine.trace(self, graph_type="flat").get_trace(full)
            own = {id(parameter) for parameter in self.prior.parameters()}
            found: dict[str, Any] = {name: s["value"] for name, s in trace.nodes.items() if s["type"] == "param"}
            others = [name for name, value in found.items() if id(value.unconstrained()) not in own]
        if others:
            raise ValueError(f"expected a prior with the parameters of a module, got pyro.param {quoted(others)}")
        sites = sample_sites(trace)
        if others := [name for name, site in sites.items() if not site["is_observed"]]:
            raise ValueError(f"expected a prior that draws the sites of the bank, got {quoted(others)} as well")
        for name, site in sites.items():
            shape = site["value"].shape[1:]
            event = site["fn"].event_shape
            require(event == shape, f"site {name!r} of shape {list(shape)}, as in the bank", list(event))
        counted = any(site["mask"] is not False for site in sites.values())
        got = f"{len(full)} frames with {int(full[:, :, 1, :, 0].sum())} propagated objects at most"
        require(counted, "scenes with draws that this prior makes", got)
