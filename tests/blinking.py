# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""A minimal video, a pattern that blinks in noise, and a model and guide that learn it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn

from pyro_sqair.infer import VIMCO
from pyro_sqair.training import Trainer, TrainingConfig, read_log

PATTERN = torch.tensor([1.0, -1.0, 1.0, -1.0])


Hook = Callable[[Tensor], Tensor | None]


class Blink(NamedTuple):
    """A batch; `frames` [T, B, 1, 2, 2]."""

    frames: Tensor


class Blinking:
    """The pattern is present in half of the frames.

    The hook with key i is called with the frames of draw i, counted from 0, and may return others in their place.
    """

    def __init__(self, device: torch.device, hooks: dict[int, Hook] | None = None) -> None:
        self.device = device
        self.hooks = hooks or {}
        self.lengths: list[int] = []

    def sample(self, batch: int, length: int, generator: torch.Generator) -> Blink:
        present = torch.rand(length, batch, 1, generator=generator, device=self.device) < 0.5
        noise = torch.randn(length, batch, 4, generator=generator, device=self.device)
        frames = (present * PATTERN.to(self.device) + 0.1 * noise).reshape(length, batch, 1, 2, 2)
        if hook := self.hooks.get(len(self.lengths)):
            frames = frames if (changed := hook(frames)) is None else changed
        self.lengths.append(length)
        return Blink(frames)


class Model(PyroModule):
    """pres_t ~ Bernoulli, size_t ~ Normal, image_t ~ Normal(pres_t · size_t · pattern)."""

    def __init__(self) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.zeros(()))
        self.pattern = nn.Parameter(0.3 * torch.randn(4))
        self.noise = PyroParam(torch.tensor(1.0), constraint=dist.constraints.positive)

    def forward(self, frames: Tensor) -> None:
        with pyro.plate("sequences", frames.shape[1], dim=-1):
            for t in pyro.markov(range(len(frames))):
                pres = pyro.sample(f"frame_{t}/pres", dist.Bernoulli(logits=self.logit))
                size = pyro.sample(f"frame_{t}/size", dist.Normal(torch.ones_like(self.logit), 0.5))
                mean = (pres * size).unsqueeze(-1) * self.pattern
                pixels = frames[t].flatten(1)
                pyro.sample(f"frame_{t}/image", dist.Normal(mean, self.noise).to_event(1), obs=pixels)


class Guide(PyroModule):
    """Amortised. It reads the model's pattern, so the two share a parameter."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.pattern = model.pattern
        self.readout = nn.Linear(5, 3)

    def forward(self, frames: Tensor) -> None:
        with pyro.plate("sequences", frames.shape[1], dim=-1):
            for t in pyro.markov(range(len(frames))):
                pixels = frames[t].flatten(1)
                seen = torch.cat([pixels, (pixels @ self.pattern).unsqueeze(-1)], dim=-1)
                logit, loc, scale = self.readout(seen).unbind(-1)
                pyro.sample(f"frame_{t}/pres", dist.Bernoulli(logits=logit))
                pyro.sample(f"frame_{t}/size", dist.Normal(loc, nn.functional.softplus(scale) + 0.01))


def pair(seed: int = 0) -> tuple[Model, Guide]:
    """A model and its guide, initialised with this seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Model()
        return model, Guide(model)


class Bench:
    """Makes trainers of the blinking pattern, each in its own folder."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.device = folder, device

    def config(self, **changes: Any) -> TrainingConfig:
        """A configuration of 24 steps with intervals that are not multiples of each other."""
        defaults: dict[str, Any] = {
            "steps": 24,
            "batch_size": 4,
            "num_particles": 2,
            "learning_rate": 1e-2,
            "final_learning_rate": 1e-3,
            "warmup_steps": 3,
            "curriculum": ((1, 0.3), (3, 0.7)),
            "ema_decay": 0.9,
            "log_every": 5,
            "validate_every": 7,
            "checkpoint_every": 100,
        }
        return TrainingConfig(**(defaults | changes))

    def trainer(
        self, name: str = "run", hooks: dict[int, Hook] | None = None, pair_seed: int = 0, **changes: Any
    ) -> Trainer:
        """A trainer in the folder `name`. Changes are arguments of the trainer or fields of its configuration."""
        own = {k: changes.pop(k) for k in ("validate", "identity", "elbo", "pair", "source") if k in changes}
        model, guide = own.get("pair") or pair(pair_seed)
        model, guide = model.to(self.device), guide.to(self.device)
        config = self.config(**changes)
        elbo = own.get("elbo") or VIMCO(config.num_particles)
        return Trainer(
            model,
            guide,
            elbo,
            own.get("source") or Blinking(self.device, hooks),
            config,
            self.folder / name,
            validate=own.get("validate"),
            identity=own.get("identity", {"name": "blinking"}),
            experiment={"what": "a blinking pattern"},
            progress=False,
        )


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in trainer.objective.state_dict().items()}


def log(trainer: Trainer) -> list[dict[str, Any]]:
    """All that was logged but the time it took."""
    return [{k: v for k, v in r.items() if k != "seconds"} for r in read_log(trainer.out / "log.jsonl")]


def assert_identical(left: Any, right: Any, where: str = "") -> None:
    """Bit for bit, through dicts and sequences."""
    if isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_identical(left[key], right[key], f"{where}.{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for i, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_identical(a, b, f"{where}[{i}]")
    elif isinstance(left, Tensor):
        assert left.dtype == right.dtype, where
        assert torch.equal(left, right), where
    else:
        assert left == right, where
