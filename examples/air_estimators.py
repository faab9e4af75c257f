# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Attend, Infer, Repeat (Eslami et al. 2016) in plain Pyro: which of four estimators trains its guide to count?"""

import time

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_sqair.cli import run
from pyro_sqair.data import MovingDigits, embedded_digits, gentle_motion
from pyro_sqair.infer import OVIS, RWS, VIMCO

# RenyiELBO gives discrete draws no gradient (Pyro's issue 3289), so its guide does not learn to count.
RENYI = pyro.infer.RenyiELBO(alpha=0, num_particles=5, vectorize_particles=True, max_plate_nesting=1)
ESTIMATORS = {"RenyiELBO(alpha=0)": RENYI, "VIMCO(5)": VIMCO(5), "OVIS(5)": OVIS(5), "RWS(5)": RWS(5)}


class AIR(nn.Module):  # up to three objects in an image; each has (pres, where, what)
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.predict, self.encode, self.decode = mlp(2500, 128), mlp(128, 5), mlp(400, 32), mlp(16, 400)
        self.update = nn.Linear(19, 128)

    def model(self, images: Tensor) -> None:
        with pyro.plate("images", len(images)):
            canvas, pres = 0.0, torch.ones(len(images), 1)
            for t in range(3):
                pres = pyro.sample(f"pres_{t}", dist.Bernoulli(0.0067 * pres).to_event(1))  # 5 nats for an object
                where = pyro.sample(f"where_{t}", dist.Normal(torch.zeros(2), 1.0).mask(pres).to_event(1))
                what = pyro.sample(f"what_{t}", dist.Normal(torch.zeros(16), 1.0).mask(pres).to_event(1))
                glimpse, (rows, columns) = torch.sigmoid(self.decode(what) - 2).unflatten(-1, (20, 20)), window(where)
                canvas = canvas + pres[..., None] * (rows.mT @ glimpse @ columns)
            pyro.sample("image", dist.Normal(canvas, 0.3).to_event(2), obs=images)

    def guide(self, images: Tensor) -> Tensor:
        pyro.module("air", self)
        with pyro.plate("images", len(images)):
            state, pres, count = self.embed(images.flatten(1)), torch.ones(len(images), 1), 0
            for t in range(3):
                logit, loc, log_scale = self.predict(state.relu()).split([1, 2, 2], -1)
                pres = pyro.sample(f"pres_{t}", dist.Bernoulli(torch.sigmoid(logit + 1) * pres).to_event(1))
                where = pyro.sample(f"where_{t}", dist.Normal(loc, (log_scale - 2).exp()).mask(pres).to_event(1))
                rows, columns = window(where)
                loc, log_scale = self.encode((rows @ images @ columns.mT).flatten(-2)).chunk(2, -1)
                what = pyro.sample(f"what_{t}", dist.Normal(loc, (log_scale - 1).exp()).mask(pres).to_event(1))
                state = state + self.update(torch.cat([pres, where, what], -1))
                count = count + pres.squeeze(-1)
            return count


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, outputs))


def window(where: Tensor) -> Tensor:  # bilinear weights of rows and columns, [2, *, 20, 50], at where [*, 2] in (-1, 1)
    pixel = 15 * (where[..., None] + 1) + torch.arange(20)
    return (1 - (pixel[..., None] - torch.arange(50)).abs()).relu().movedim(-3, 0)


def main(seconds: float = 90.0) -> None:  # CPU time for each estimator
    torch.set_num_threads(1)
    train, test = (MovingDigits(embedded_digits(split), gentle_motion()) for split in ("train", "test"))
    for name, elbo in ESTIMATORS.items():
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        air, generator, end = AIR(), torch.Generator().manual_seed(0), time.process_time() + seconds
        svi = pyro.infer.SVI(air.model, air.guide, pyro.optim.ClippedAdam({"lr": 1e-3}), elbo)
        print(f"{name:>20}: count accuracy", end=" ", flush=True)
        while time.process_time() < end:
            svi.step(train.sample(64, 1, generator).frames[0, :, 0])
        unseen = test.sample(500, 1, generator)
        print(f"{(air.guide(unseen.frames[0, :, 0]) == unseen.count[0]).float().mean():.3f}")


if __name__ == "__main__":
    raise SystemExit(run(main))
