# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The particle filter with structured states, impossible data and invalid programs."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from no_host_reads import NoHostReads
from torch import Tensor

from pyro_sqair.infer import SMC, smc_evidence

# ---------------------------------------------------------------- states


class Walk:
    """A random walk whose state has tensors with and without a particle dimension."""

    def __init__(self, batch: int, is_model: bool, initial_draw: bool = False, width: int = 4) -> None:
        self.features = torch.rand(batch, width)
        self.is_model, self.initial_draw = is_model, initial_draw

    def init(self, batch: int) -> dict[str, Any]:
        start = torch.zeros(batch)
        if self.initial_draw:
            start = pyro.sample("start", dist.Normal(torch.zeros(batch), 1.0))
        return {"z": start, "path": torch.zeros(self.features.shape), "shared": self.features, "new": None, "t": 0}

    def step(self, t: int, state: dict[str, Any], frame: Tensor) -> dict[str, Any]:
        z = pyro.sample("z", dist.Normal(state["z"], 1.0))
        if self.is_model:
            pyro.sample("x", dist.Normal(z, 0.3), obs=frame)
        path = torch.cat([state["path"][..., 1:].expand(*z.shape, -1), z.unsqueeze(-1)], -1)
        return {"z": z, "path": path, "shared": state["shared"], "new": path[..., -2:], "t": t}


@pytest.mark.parametrize("num_particles", [3, 4, 7])
@pytest.mark.parametrize("initial_draw", [False, True])
def test_all_of_a_state_follows_the_same_ancestors(num_particles, initial_draw):
    """With K below, equal to and above B = 4; the path stored in a particle is that of its ancestors."""
    batch = 4
    programs = [Walk(batch, is_model, initial_draw) for is_model in (True, False)]
    smc = SMC(*programs, num_particles, "multinomial", 1)
    particles = smc.init(batch)
    drawn, ancestors = [], []
    for t in range(batch):
        particles, step = smc.step(t, particles, torch.randn(batch))
        drawn.append(particles.model_state["z"])
        ancestors.append(None if step.resampling is None else step.resampling.ancestors)
        for state, program in zip((particles.model_state, particles.guide_state), programs, strict=True):
            assert torch.equal(state["z"], drawn[-1])
            assert torch.equal(state["shared"], program.features.expand(num_particles, -1, -1))
            assert torch.equal(state["new"], state["path"][..., -2:])
            assert state["t"] == t
    for k in range(num_particles):
        for b in range(batch):
            index, path = k, []
            for t in reversed(range(batch)):
                path.append(drawn[t][index, b])
                index = index if t == 0 else int(ancestors[t][index, b])
            assert torch.equal(particles.guide_state["path"][k, b], torch.stack(path[::-1]))


def test_a_draw_in_init_is_part_of_the_evidence():
    """p(x) of one frame: x ~ N(0, 1 + 1 + 0.3^2); the guide is the prior."""
    frames = torch.full((1, 4000), 1.2)
    evidence = smc_evidence(Walk(4000, True, True), Walk(4000, False, True), frames, num_particles=8).double()
    exact = dist.Normal(0.0, math.sqrt(2.09)).log_prob(torch.tensor(1.2)).double()
    ratio = (evidence - exact).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(4000)


# ---------------------------------------------------------------- impossible data, hot path, errors


class Coin:
    """Two binary draws per frame; the frame is 1 if they are equal and 0 if not, so 2 is impossible."""

    def __init__(self, is_model: bool) -> None:
        self.is_model = is_model

    def init(self, batch: int) -> None:
        return None

    def step(self, t: int, state: Tensor | None, frame: Tensor) -> Tensor:
        z = pyro.sample("z", dist.Bernoulli(0.5).expand([2]).to_event(1))
        if self.is_model:
            equal = (z[..., 0] == z[..., 1]).float()
            pyro.factor("x", torch.where(equal == frame, 0.0, -math.inf))
        return z


@pytest.mark.parametrize("threshold", [0, 0.5, 1])
def test_impossible_frames(threshold):
    frames = torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0], [1.0, 1.0, 1.0]])
    run = lambda: smc_evidence(Coin(True), Coin(False), frames, num_particles=50, threshold=threshold)  # noqa: E731
    with pytest.raises(ValueError, match="log weight above -inf .* got none of 50 for 1 of 3 data"):
        run()
    with pyro.validation_enabled(False):
        evidence = run()
        out = SMC(Coin(True), Coin(False), 50, threshold=threshold).run(frames)
    assert evidence[1] == -math.inf
    assert evidence.isfinite().tolist() == [True, False, True]
    assert abs(evidence[0] - 3 * math.log(0.5)) < 1.5
    assert out.effective_sample_size[1:, 1].tolist() == [0, 0]
    assert out.particles.log_weight[:, 1].eq(-math.inf).all()
    assert not any(field.isnan().any() for field in (out.increments, out.log_evidence, out.particles.log_weight))


def test_sequence_without_possible_particle_is_reported():
    """Each frame is possible for some particle, but no particle can explain both frames of sequence 1."""

    class Excluded(Coin):
        def step(self, t, state, frame):
            z = pyro.sample("z", dist.Bernoulli(0.5).expand([2]).to_event(1))
            first = z if t == 0 else state
            if self.is_model:
                impossible = (first[..., 0] == t) & (torch.arange(3) == 1)
                pyro.factor("x", torch.where(impossible, -math.inf, 0.0))
            return first

    with pytest.raises(ValueError, match=r"explain frame 1 of every sequence, .* for sequences \[1\]"):
        smc_evidence(Excluded(True), Excluded(False), torch.zeros(2, 3), num_particles=20, threshold=0)


def test_no_host_reads_on_the_hot_path():
    programs, frames = (Walk(4, True), Walk(4, False)), torch.randn(3, 4)
    with pyro.validation_enabled(False), NoHostReads():
        smc_evidence(*programs, frames, num_particles=5)


class TestErrors:
    frames = torch.zeros(2, 3)

    def test_programs_without_steps(self):
        with pytest.raises(ValueError, match=r"expected a guide with methods init\(batch\) and step.*got function"):
            SMC(Coin(True), lambda frames: None, 3)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_particles": 0}, "num_particles >= 1, got 0"),
            ({"threshold": 1.5}, "threshold from 0 .* got 1.5"),
            ({"resampling": "branching"}, "'systematic'.* got 'branching'"),
        ],
    )
    def test_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            SMC(Coin(True), Coin(False), **({"num_particles": 3} | arguments))

    @pytest.mark.parametrize("frames", [torch.zeros(0, 3), torch.zeros(2, 0), torch.zeros(3), [1.0]])
    def test_frames(self, frames):
        with pytest.raises(ValueError, match=r"expected frames of shape \[T, B, ...\] with T and B >= 1"):
            smc_evidence(Coin(True), Coin(False), frames, num_particles=3)

    def test_sites_that_differ(self):
        class Renamed(Coin):
            def step(self, t, state, frame):
                return pyro.sample("y", dist.Bernoulli(0.5).expand([2]).to_event(1))

        with pytest.raises(ValueError, match="sampled in the guide but not in the model: 't=0: y'"):
            smc_evidence(Coin(True), Renamed(False), self.frames, num_particles=3)

    def test_a_plate_inside_a_step(self):
        class Plated(Coin):
            def step(self, t, state, frame):
                with pyro.plate("objects", 2):
                    return pyro.sample("z", dist.Bernoulli(0.5))

        with pytest.raises(ValueError, match="no plate inside a step but its own, 'sequences', got 'objects' .*'z'"):
            smc_evidence(Coin(True), Plated(False), self.frames, num_particles=3)

    def test_a_state_without_the_batch_dimension(self):
        class Lossy(Coin):
            def step(self, t, state, frame):
                return super().step(t, state, frame).mean(1)

        with pytest.raises(ValueError, match=r"expected state of shape \[5, 3, ...\] .* got \[5, 2\]"):
            smc_evidence(Lossy(True), Coin(False), self.frames, num_particles=5)
