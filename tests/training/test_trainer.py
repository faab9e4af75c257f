# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The training loop against an explicit one, step by step, and its files."""

import copy
import json
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from blinking import assert_identical, log, pair, weights
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from pyro_sqair.data.randomness import derive_seed
from pyro_sqair.infer import VIMCO
from pyro_sqair.training import learning_rate, load_weights, sequence_length


def test_against_the_loop_written_out(bench) -> None:
    """The batch mean of −L / T; Adam with the rate of the step; one length and one generator per step."""
    trainer = bench.trainer(ema_decay=0.0, clip_norm=1.0)
    config, model, guide = trainer.config, *copy.deepcopy((trainer.objective.model, trainer.objective.guide))
    assert trainer.run()

    torch.manual_seed(derive_seed("draws", config.seed))
    pyro.clear_param_store()
    objective = VIMCO(2, max_plate_nesting=1)(model, guide)
    optimizer = torch.optim.Adam(objective.parameters(), fused=True)
    losses, norms = [], []
    for step in range(24):
        length = sequence_length(step, config)
        generator = torch.Generator(bench.device).manual_seed(derive_seed("batch", config.seed, step))
        optimizer.zero_grad()
        loss = objective(trainer.source.sample(4, length, generator).frames) / 4 / length
        loss.backward()
        losses.append(loss.item())
        norms.append(nn.utils.clip_grad_norm_(objective.parameters(), 1.0).item())
        optimizer.param_groups[0]["lr"] = learning_rate(step, config)
        optimizer.step()
    for name, tensor in objective.state_dict().items():
        torch.testing.assert_close(trainer.objective.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)
    for record, stop in zip(log(trainer), (5, 10, 15, 20, 24), strict=True):
        steps = slice(stop - 5 if stop < 24 else 20, stop)
        assert record["bound"] == pytest.approx(-sum(losses[steps]) / len(losses[steps]), rel=1e-4)
        assert record["gradient_norm"] == pytest.approx(sum(norms[steps]) / len(norms[steps]), rel=1e-4)


def test_it_learns(bench) -> None:
    trainer = bench.trainer(steps=600, batch_size=16, learning_rate=2e-2, log_every=100, ema_decay=0.95)
    assert trainer.run()
    bounds = [record["bound"] for record in log(trainer) if record["kind"] == "train"]
    assert bounds[0] < -1.5
    assert bounds[-1] > 0.5
    # The guide infers whether the pattern is present.
    generator = torch.Generator(bench.device).manual_seed(1)
    frames = trainer.source.sample(200, 3, generator).frames
    with trainer.averaged_weights(), torch.no_grad():
        trace = poutine.trace(trainer.objective.guide).get_trace(frames)
    truth = frames[2, :, 0, 0, 0] > 0.5
    assert (trace.nodes["frame_2/pres"]["fn"].logits > 0).eq(truth).float().mean() > 0.97


def test_validation_changes_nothing_and_sees_the_average(bench) -> None:
    plain = bench.trainer("plain")
    plain.run()

    watched = bench.trainer("watched")
    seen = []

    def validate(step: int) -> dict[str, float]:
        assert not torch.is_grad_enabled()
        seen.append((step, torch.rand(()).item()))
        assert_identical({name: p.detach() for name, p in watched.objective.named_parameters()}, watched.average.values)
        return {"count_accuracy": 0.25}

    watched.validate = validate
    watched.run()
    assert [step for step, _ in seen] == [7, 14, 21, 24]
    assert len({draw for _, draw in seen}) == 1  # the same noise every time
    assert_identical(weights(watched), weights(plain))
    assert [record for record in log(watched) if record["kind"] == "train"] == log(plain)
    assert [r for r in log(watched) if r["kind"] == "validation"] == [
        {"kind": "validation", "step": step, "count_accuracy": 0.25} for step in (7, 14, 21, 24)
    ]


def test_averaged_weights_go_in_and_out(bench) -> None:
    trainer = bench.trainer()
    trainer.run()
    last = weights(trainer)
    with trainer.averaged_weights():
        inside = weights(trainer)
    assert not torch.equal(inside["model.pattern"], last["model.pattern"])
    assert torch.equal(inside["model.pattern"], inside["guide.pattern"])  # one parameter, two names
    other = bench.trainer("other", pair_seed=9)
    pair = other.objective.model, other.objective.guide
    load_weights(trainer.out / "weights.safetensors", *pair, trainer.identity)
    assert_identical(weights(other), inside)
    assert_identical(weights(trainer), last)

    without = bench.trainer("without", ema_decay=0.0)
    without.run()
    last = weights(without)
    with without.averaged_weights():
        assert_identical(weights(without), last)


def test_global_state_is_restored(bench) -> None:
    state = torch.get_rng_state()
    pyro.param("theirs", torch.ones(2))
    trainer = bench.trainer()
    assert torch.equal(torch.get_rng_state(), state)
    with pyro.validation_enabled(False):
        trainer.run()
        assert not torch.distributions.Distribution._validate_args
    assert torch.distributions.Distribution._validate_args
    assert torch.equal(torch.get_rng_state(), state)
    assert set(pyro.get_param_store().keys()) == {"theirs"}


def test_the_seed_decides(bench) -> None:
    runs = [bench.trainer(str(i), seed=seed) for i, seed in enumerate((1, 1, 2))]
    for trainer in runs:
        torch.rand(3)  # what came before does not
        trainer.run()
    assert_identical(weights(runs[0]), weights(runs[1]))
    assert not torch.equal(weights(runs[0])["model.pattern"], weights(runs[2])["model.pattern"])


def test_models_of_the_same_names_are_trained_apart(bench) -> None:
    """With Pyro's global store, the second model would get the PyroParam of the first, and train neither."""
    alone = bench.trainer("alone", pair_seed=5)
    alone.run()
    bench.trainer("other").run()
    used = bench.trainer("used").objective
    poutine.trace(used.model).get_trace(torch.zeros(1, 2, 1, 2, 2, device=bench.device))
    assert "noise" in pyro.get_param_store()
    after = bench.trainer("after", pair_seed=5)
    after.run()
    assert_identical(weights(after), weights(alone))
    assert weights(after)["model.noise_unconstrained"] != 0  # it has left log 1


def test_curriculum_and_log(bench) -> None:
    trainer = bench.trainer(steps=20, curriculum=((1, 0.5), (3, 0.5)), log_every=5)
    trainer.run()
    assert trainer.source.lengths == [1] * 15 + [3] * 5
    records = log(trainer)
    assert [(r["step"], r["length"]) for r in records] == [(5, 1), (10, 1), (15, 1), (20, 3)]
    assert [r["learning_rate"] for r in records] == [learning_rate(step, trainer.config) for step in (4, 9, 14, 19)]
    assert all(r["skipped"] == 0 and r["gradient_norm"] > 0 for r in records)
    assert json.loads((trainer.out / "experiment.json").read_text()) == {"what": "a blinking pattern"}


def test_a_bad_batch_is_skipped_and_counted(bench) -> None:
    clean = bench.trainer("clean", steps=10)
    clean.run()
    before: dict[str, Tensor] = {}

    def remember(frames: Tensor) -> Tensor:
        before.update(weights(trainer))
        return 1e30 * frames  # its square overflows

    def compare(frames: Tensor) -> None:
        assert_identical(weights(trainer), before)

    trainer = bench.trainer(steps=10, hooks={7: remember, 8: compare})
    trainer.run()
    assert [r["skipped"] for r in log(trainer)] == [0, 1]
    assert trainer.skipped == 1
    assert all(tensor.isfinite().all() for tensor in weights(trainer).values())
    # The log has the means over the steps taken.
    assert log(trainer)[0] == log(clean)[0]
    assert log(trainer)[1]["bound"] is not None


def test_pyro_checks_the_programs_before_the_first_step(bench) -> None:
    class Draw(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(scale))

        def forward(self, frames: Tensor) -> None:
            with pyro.plate("sequences", frames.shape[1], dim=-1):
                pyro.sample("x", pyro.distributions.Normal(0.0, self.scale))

    trainer = bench.trainer(pair=(Draw(-1.0), Draw(1.0)))
    before = weights(trainer)
    with pyro.validation_enabled(False), pytest.raises(ValueError, match="constraint"):
        trainer.run()
    assert_identical(weights(trainer), before)
    assert len(trainer.updater.optimizer.state) == 0


def test_programs_that_cannot_be_vectorised_change_no_file(bench) -> None:
    model, guide = pair()

    def left(frames: Tensor) -> None:
        with pyro.plate("sequences", frames.shape[1], dim=-1):
            size = pyro.sample("size", dist.Normal(torch.zeros_like(model.logit), 1.0))
            pyro.sample("image", dist.Normal(size.flatten()[: frames.shape[1]], 1.0), obs=frames[0, :, 0, 0, 0])

    def prior(frames: Tensor) -> None:
        with pyro.plate("sequences", frames.shape[1], dim=-1):
            pyro.sample("size", dist.Normal(torch.zeros_like(model.logit), 1.0))

    model.forward, guide.forward = left, prior
    trainer = bench.trainer(pair=(model, guide))
    with pytest.raises(ValueError, match="particle 1 .* at site 'image' of the model.*vectorize_particles=False"):
        trainer.run()
    assert [path.name for path in trainer.out.iterdir()] == [".lock"]


def test_invalid_arguments(bench) -> None:
    with pytest.raises(ValueError, match="expected identity to be JSON-able"):
        bench.trainer(identity={"model": object()})
    with pytest.raises(ValueError, match=r"an estimator with config\.num_particles=2, got 1"):
        bench.trainer(elbo=Trace_ELBO())
    with pytest.raises(ValueError, match="with parameters to train, got none"):
        bench.trainer(pair=(nn.Module(), nn.Module()))
    trainer = bench.trainer(hooks={0: lambda frames: frames[:, :3]})
    with pytest.raises(ValueError, match=re.escape("expected frames of shape [1, 4, ...], got [1, 3, 1, 2, 2]")):
        trainer.run()
