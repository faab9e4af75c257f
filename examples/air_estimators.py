# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Which estimators teach a guide to count? Attend, Infer, Repeat (Eslami et al. 2016), a plain Pyro program, with five.

    python examples/air_estimators.py                             # all five, two at a time: minutes
    python examples/air_estimators.py --estimators VIMCO OVIS     # some of them

AIR's guide decides step by step whether there is one more object: a Bernoulli, which cannot be reparameterised.
`RenyiELBO` gives such draws no gradient, and the guide never learns to count (Pyro's issue 3289); with `VIMCO` it does.
Ctrl-C draws what has been measured until then.
"""

import functools
import itertools
import json
import math
import multiprocessing
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
import tyro
from pyro.infer import RenyiELBO, TraceGraph_ELBO
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_sqair.data import MovingDigits, embedded_digits, gentle_motion
from pyro_sqair.data.atomic import atomic_path
from pyro_sqair.infer import OVIS, RWS, VIMCO, evaluate_bounds, mean_over_data

Name = Literal["TraceGraph_ELBO", "RenyiELBO", "VIMCO", "OVIS", "RWS"]
COLORS = dict(zip(get_args(Name), ("#E69F00", "#777777", "#0072B2", "#009E73", "#CC79A7"), strict=True))


def estimator(name: Name, particles: int) -> pyro.infer.ELBO:
    """Pyro's own weigh per datum too, with all particles in a plate; TraceGraph_ELBO has one, as in Pyro's AIR."""
    if name == "TraceGraph_ELBO":
        return TraceGraph_ELBO(max_plate_nesting=1)
    if name == "RenyiELBO":
        return RenyiELBO(alpha=0, num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
    return {"VIMCO": VIMCO, "OVIS": OVIS, "RWS": RWS}[name](particles)


class AIR(nn.Module):
    """Model and guide of images with up to `steps` objects; each is (pres, where = (zoom, x, y), what)."""

    def __init__(self, steps: int = 3, hidden: int = 128, what: int = 16, side: int = 50, glimpse: int = 20) -> None:
        super().__init__()
        self.steps, self.what, self.side, self.glimpse = steps, what, side, glimpse
        self.embed, self.predict = mlp(side**2, hidden, hidden), mlp(hidden, hidden, 7)
        self.rnn = nn.LSTMCell(hidden + 1 + 3 + what, hidden)
        self.encode, self.decode = mlp(glimpse**2, hidden, 2 * what), mlp(what, hidden, glimpse**2)
        self.baseline = mlp(hidden, hidden, 1)
        self.register_buffer("where_loc", torch.tensor([side / glimpse, 0.0, 0.0]))
        self.register_buffer("where_scale", torch.tensor([0.2, 1.0, 1.0]))
        self.register_buffer("one_more", torch.tensor(-5.0).sigmoid())  # an object costs five nats

    def model(self, images: Tensor) -> None:
        """p(image, objects); images [B, H, W]."""
        pyro.module("air", self)
        with pyro.plate("images", len(images)):
            canvas, pres = 0.0, images.new_ones(len(images), 1)
            for t in range(self.steps):
                pres = pyro.sample(f"pres_{t}", dist.Bernoulli(self.one_more * pres).to_event(1))
                # What an absent object draws is nothing to the model: its terms are masked, here and in the guide.
                where = dist.Normal(self.where_loc, self.where_scale).mask(pres).to_event(1)
                zoom, x, y = pyro.sample(f"where_{t}", where).unbind(-1)
                what = dist.Normal(images.new_zeros(self.what), 1.0).mask(pres).to_event(1)
                glimpse = torch.sigmoid(self.decode(pyro.sample(f"what_{t}", what)) - 2)
                glimpse = glimpse.unflatten(-1, (self.glimpse, self.glimpse))
                canvas = canvas + pres[..., None] * warp(glimpse, zoom, x, y, self.side)
            pyro.sample("image", dist.Normal(canvas, 0.3).to_event(2), obs=images)

    def guide(self, images: Tensor) -> Tensor:
        """q(objects | image); returns how many there are, shape [*, B]."""
        pyro.module("air", self)
        with pyro.plate("images", len(images)):
            seen, count = self.embed(images.flatten(1)), 0
            pres = images.new_ones(len(images), 1)
            where, what, h, c = (images.new_zeros(len(images), d) for d in (3, self.what, *[self.rnn.hidden_size] * 2))
            for t in range(self.steps):
                shape = pres.shape[:-1]  # [B] at first, [K, B] once something has been drawn
                seen, h, c = (tensor.expand(*shape, -1) for tensor in (seen, h, c))
                inputs = torch.cat([seen, pres, where, what], -1).flatten(0, -2)
                state = self.rnn(inputs, (h.flatten(0, -2), c.flatten(0, -2)))
                h, c = (tensor.reshape(*shape, -1) for tensor in state)
                logit, loc, scale = self.predict(h).split([1, 3, 3], -1)
                # TraceGraph_ELBO alone reads this: a network that foretells the cost, in hundreds of nats.
                foretold = {"nn_baseline": lambda h: 100 * self.baseline(h).squeeze(-1), "nn_baseline_input": h}
                law = dist.Bernoulli(torch.sigmoid(logit + 1) * pres).to_event(1)
                pres = pyro.sample(f"pres_{t}", law, infer={"baseline": foretold})
                loc = self.where_loc + self.where_scale * loc
                scale = self.where_scale * (0.3 * F.softplus(scale) + 0.01)
                where = pyro.sample(f"where_{t}", dist.Normal(loc, scale).mask(pres).to_event(1))
                zoom, x, y = where.unbind(-1)
                crop = warp(images, 1 / zoom, -x / zoom, -y / zoom, self.glimpse)
                loc, scale = self.encode(crop.flatten(-2)).chunk(2, -1)
                what = pyro.sample(f"what_{t}", dist.Normal(loc, F.softplus(scale) + 0.01).mask(pres).to_event(1))
                count = count + pres.squeeze(-1)
            return count


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers with rectifiers in between."""
    layers = [layer for pair in itertools.pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def warp(images: Tensor, zoom: Tensor, x: Tensor, y: Tensor, side: int) -> Tensor:
    """Images [*, H, W] read at zoom * u + (x, y) for u in a square of `side` points in (-1, 1): [*, side, side].

    There is no shear, so bilinear interpolation is a matrix to the left for rows and one to the right for columns.
    """

    def weights(shift: Tensor, size: int) -> Tensor:  # [*, side, size]
        points = (torch.arange(side, device=shift.device) + 0.5) * 2 / side - 1
        pixel = (zoom[..., None] * points + shift[..., None] + 1) * size / 2 - 0.5
        return (1 - (pixel[..., None] - torch.arange(size, device=shift.device)).abs()).relu()

    return weights(y, images.shape[-2]) @ images @ weights(x, images.shape[-1]).mT


@dataclass
class Arguments:
    """Command line."""

    estimators: tuple[Name, ...] = get_args(Name)
    """which to train with"""
    out: Path = Path("runs/air_estimators")
    """folder for the figure and the numbers"""
    seconds: float = 150.0
    """CPU time to train for, each"""
    steps: int | None = None
    """stop after as many steps instead"""
    jobs: int = 2
    """trainings at a time, each on one core"""
    particles: int = 5
    """K"""
    batch: int = 64
    """images a step"""
    held_out: int = 500
    """images to measure on"""
    seed: int = 0
    """of weights, data and draws: the same for all"""


def train(name: Name, args: Arguments) -> None:
    """Trains one guide and its model; writes how it went into a file of its own, again at each measurement."""
    pyro.clear_param_store()
    pyro.set_rng_seed(args.seed)
    air, elbo = AIR(), estimator(name, args.particles)
    source, unseen = (MovingDigits(embedded_digits(split), gentle_motion()) for split in ("train", "test"))
    test = unseen.sample(args.held_out, 1, torch.Generator().manual_seed(1))
    images, counts, generator = test.frames[0, :, 0], test.count[0], torch.Generator().manual_seed(args.seed)
    foretelling = list(air.baseline.parameters())
    others = [p for n, p in air.named_parameters() if not n.startswith("baseline")]
    optimiser = torch.optim.Adam([{"params": others}, {"params": foretelling}], lr=1e-3)

    curve: dict = {"seconds": [], "steps": [], "accuracy": []}
    spent, step, started = 0.0, 0, time.monotonic()
    while True:
        share = spent / args.seconds if args.steps is None else step / args.steps
        if share >= min(1, len(curve["steps"]) / 30):
            with torch.no_grad():  # one draw of the guide for each image
                accuracy = (air.guide(images) == counts).float().mean().item()
            for key, value in (("seconds", spent), ("steps", step), ("accuracy", accuracy)):
                curve[key].append(value)
            if share >= 1:
                bounds = evaluate_bounds(air.model, air.guide, images, num_particles=100, chunk=5)
                curve["iwae"] = mean_over_data(bounds.iwae)._asdict()
            with atomic_path(args.out / f"{name}.json") as path:
                path.write_text(json.dumps(curve))
            left = f", {(time.monotonic() - started) * (1 / share - 1) / 60:.1f} min left" if share > 0 else ""
            print(f"{name:>15}: {spent:4.0f} s, step {step:5}, count accuracy {accuracy:.3f}{left}", flush=True)
        if share >= 1:
            return
        began = time.process_time()
        batch = source.sample(args.batch, 1, generator).frames[0, :, 0]
        optimiser.zero_grad()
        elbo.loss_and_grads(air.model, air.guide, batch)
        rate = 1e-3 * min(1.0, (step + 1) / 200, 2.5 - 2.4 * share)  # warms up, and cools down at the end
        for group, faster in zip(optimiser.param_groups, (1, 10), strict=True):
            nn.utils.clip_grad_norm_(group["params"], 20.0 * len(batch))  # apart: the baseline's are far larger
            group["lr"] = rate * faster
        optimiser.step()
        spent, step = spent + time.process_time() - began, step + 1


def draw(curves: dict[Name, dict], path: Path) -> None:
    """One line an estimator, its name at the end."""
    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=120, layout="constrained")
    longest = max(curve["seconds"][-1] for curve in curves.values())
    height = -math.inf
    for name, curve in sorted(curves.items(), key=lambda item: item[1]["accuracy"][-1]):
        axes.plot(curve["seconds"], curve["accuracy"], color=COLORS[name], linewidth=1.5)
        height = max(curve["accuracy"][-1], height + 0.055)  # names do not overlap where lines do
        label = f" {name} {curve['accuracy'][-1]:.2f}"
        axes.annotate(label, (longest, height), color=COLORS[name], va="center", annotation_clip=False)
    axes.axhline(1 / 3, color="#BBBBBB", linewidth=0.8, linestyle=":", zorder=0)
    axes.text(longest, 0.325, "always the same count", color="#888888", fontsize=8, ha="right", va="top")
    axes.set(xlabel="seconds of CPU time on one core, evaluation not counted", ylabel="count accuracy on unseen images")
    axes.set(title="AIR in plain Pyro: the same model, data, seed and optimiser", xlim=(0, longest), ylim=(0, 1.02))
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def report(curves: dict[Name, dict]) -> None:
    """Prints where each ended."""
    columns = ("estimator", "steps", "ms a step", "count accuracy", "0.9 after", "log p(x), IWAE K=100")
    print("\n| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for name, curve in curves.items():
        accuracy, seconds, steps = curve["accuracy"][-1], curve["seconds"], curve["steps"][-1]
        reached = next((f"{s:.0f} s" for s, a in zip(seconds, curve["accuracy"], strict=True) if a >= 0.9), "never")
        iwae = "{mean:.1f} ± {standard_error:.1f}".format(**curve["iwae"]) if "iwae" in curve else "unfinished"
        pace = 1000 * seconds[-1] / max(steps, 1)
        print(f"| {name} | {steps} | {pace:.0f} | {accuracy:.3f} | {reached} | {iwae} |")


def prepare() -> None:
    """Sets up a process that trains: one core; Ctrl-C is the parent's affair."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    pyro.enable_validation(False)


def main(args: Arguments) -> None:
    """Trains with each estimator in a process of its own, then draws and reports."""
    for name in ("seconds", "steps", "jobs", "batch", "held_out"):
        if (number := getattr(args, name)) is not None and number <= 0:
            raise ValueError(f"expected {name} above 0, got {number}")
    for name in args.estimators:
        (args.out / f"{name}.json").unlink(missing_ok=True)
    if args.steps is None:
        minutes = math.ceil(len(args.estimators) / args.jobs) * args.seconds / 60
        print(f"{len(args.estimators)} trainings, {args.jobs} at a time: {minutes:.0f} minutes if the cores are free")
    began = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(args.jobs, prepare) as pool:
        try:
            pool.map(functools.partial(train, args=args), args.estimators, chunksize=1)
        except KeyboardInterrupt:
            print("interrupted: this is how far they came")
    files = {name: args.out / f"{name}.json" for name in args.estimators}
    curves = {name: json.loads(path.read_text()) for name, path in files.items() if path.exists()}
    if curves:
        draw(curves, args.out / "estimators.png")
        report(curves)
        print(f"\n{(time.monotonic() - began) / 60:.1f} minutes; figure: {args.out}/estimators.png")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
