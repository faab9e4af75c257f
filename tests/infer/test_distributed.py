# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Estimators with DistributedDataParallel: gradients are the mean over processes."""

from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pyro_sqair.infer import NVIL, OVIS, RWS, VIMCO, DReG, RenyiWarmup

WORLD = 2
ESTIMATORS = {
    "VIMCO": lambda: VIMCO(3),
    "DReG": lambda: DReG(OVIS(3)),
    "RWS": lambda: RWS(3, insomnia=0.5, dream=lambda trace, x: (trace.nodes["x"]["value"],)),
    "warm-up": lambda: RenyiWarmup(VIMCO(3), 5),
    "NVIL": lambda: NVIL(2),
}


class Model(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(1, 1)
        self.logit = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(logits=self.logit))
            z = pyro.sample("z", dist.Normal(self.shared(b[..., None])[..., 0], 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


class Guide(PyroModule):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.shared = model.shared
        self.readout = nn.Linear(1, 2)

    def forward(self, x: Tensor) -> None:
        logit, loc = self.readout(x[:, None]).unbind(-1)
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(logits=logit))
            pyro.sample("z", dist.Normal(loc + self.shared(b[..., None])[..., 0], 0.8))


def objectives() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    found = {}
    for name, make in ESTIMATORS.items():
        model = Model()
        found[name] = make()(model, Guide(model))
    return found


def data(rank: int) -> Tensor:
    return torch.randn(6, generator=torch.Generator().manual_seed(rank))


def gradients(objective: nn.Module, rank: int) -> list[Tensor]:
    """Gradients of two steps, to detect state kept between steps."""
    pyro.set_rng_seed(10 + rank)
    objective.zero_grad()
    for _ in range(2):
        objective(data(rank)).backward()
    return [p.grad.clone() for p in objective.parameters()]


def work(rank: int, out: Path) -> None:
    """Runs in each process."""
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(out / "store"), WORLD)  # a port could be taken
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=WORLD)
    try:
        found = {name: gradients(DistributedDataParallel(o), rank) for name, o in objectives().items()}
        torch.save(found, out / f"{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_gradients_are_the_mean_over_processes(tmp_path):
    torch.multiprocessing.spawn(work, (tmp_path,), nprocs=WORLD)
    together = [torch.load(tmp_path / f"{rank}.pt") for rank in range(WORLD)]
    for name, objective in objectives().items():
        alone = []
        for rank in range(WORLD):
            copy = objectives()[name]
            copy.load_state_dict(objective.state_dict())
            alone.append(gradients(copy, rank))
        mean = [torch.stack(grads).mean(0) for grads in zip(*alone, strict=True)]
        assert not torch.allclose(alone[0][0], alone[1][0])
        for rank in range(WORLD):
            torch.testing.assert_close(together[rank][name], mean, msg=lambda m, name=name: f"{name}: {m}")
