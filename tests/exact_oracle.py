# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The exact evidence of a linear-Gaussian SQAIR.

The oracle shares numbers with the programs of `exact_sqair` but no code. It enumerates all presence histories; given a
history the video is one multivariate Gaussian. Every number depends on the slot of an object, so an object in a wrong
slot changes the evidence.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.stats import multivariate_normal

from pyro_sqair.scene.objects import SceneConfig

WHERE, WHAT, PIXELS = 4, 1, 4
LATENT = WHERE + WHAT

History = tuple[tuple[int, ...], ...]  # the ids in each frame, in slot order
CountDistribution = Callable[[int, bool], np.ndarray]  # (number propagated, is first frame) -> P(D = 0 ... room)


@dataclass(frozen=True)
class World:
    """The numbers of a linear-Gaussian SQAIR. Those that depend on a slot have it as their first dimension."""

    num_slots: int
    length: int
    count: str = "user"  # discovery prior: "user" (one coin toss per slot), "fixed" or "learned" (of the library)
    # discovered objects: where = where_mean + chain * (where discovered before) + crowd * (sum of propagated where)
    discovery_prob: tuple[float, ...] = (0.7, 0.6, 0.5)
    where_mean: tuple[float, ...] = (-1.0, -1.0, 0.5, -0.5)
    chain: float = 0.3
    crowd: float = 0.8
    # propagated objects: what = what_decay * what + what_drift[slot],
    # where = where_decay * where + where_drift[slot] + age_drift * age + pull * (sum of the other objects' where)
    survival_prob: tuple[float, ...] = (0.55, 0.7, 0.6)
    where_decay: float = 0.9
    where_drift: tuple[float, ...] = (0.1, -0.15, 0.0)
    age_drift: float = 0.8
    pull: float = 0.4
    where_std: float = 0.6
    what_decay: float = 0.8
    what_drift: tuple[float, ...] = (0.2, -0.1, 0.0)
    what_std: float = 0.5
    pixel_std: float = 0.5
    weights: np.ndarray = field(init=False)  # [N, PIXELS, LATENT]: what an object adds to the image
    background: np.ndarray = field(init=False)  # [PIXELS]

    def __post_init__(self) -> None:
        random = np.random.default_rng(5)
        object.__setattr__(self, "weights", 0.2 * random.standard_normal((3, PIXELS, LATENT))[: self.num_slots])
        object.__setattr__(self, "background", random.uniform(0.1, 0.25, PIXELS))

    @property
    def scene(self) -> SceneConfig:
        return SceneConfig(self.num_slots, WHAT, channels=1, image_size=(2, 2), glimpse_size=(2, 2))


class GaussianObject(NamedTuple):
    """An object whose latent is ``latent @ (1, e)``, where e is the standard Gaussian noise of the whole history."""

    latent: np.ndarray  # [LATENT, 1 + noise]
    age: int  # frames since its discovery


def oracle(world: World, video: np.ndarray, count: CountDistribution) -> dict[History, float]:
    """Returns log p(history, x) of every history, for x of shape [T, PIXELS]."""
    num_slots, length = world.num_slots, world.length
    log_joint: dict[History, float] = {}
    zero = np.zeros((LATENT, 1 + length * 2 * num_slots * LATENT))
    is_where = np.arange(LATENT) < WHERE

    def total(objects: list[GaussianObject]) -> np.ndarray:
        return sum((o.latent for o in objects), zero)

    def draw(linear: np.ndarray, shift: np.ndarray, std: np.ndarray, source: int, age: int) -> GaussianObject:
        """Adds a shift, and noise from a source of its own."""
        latent = linear.copy()
        latent[:, 0] += shift
        start = 1 + source * LATENT
        latent[:, start : start + LATENT] += np.diag(std)
        return GaussianObject(latent, age)

    def propagate(previous: list[GaussianObject], i: int, t: int) -> GaussianObject:
        age = previous[i].age
        decay = np.where(is_where, world.where_decay, world.what_decay)[:, None]
        pull = np.where(is_where, world.pull, 0.0)[:, None]
        linear = decay * previous[i].latent + pull * total(previous[:i] + previous[i + 1 :])
        shift = np.where(is_where, world.where_drift[i] + world.age_drift * age, world.what_drift[i])
        std = np.where(is_where, world.where_std, world.what_std)
        return draw(linear, shift, std, 2 * t * num_slots + i, age + 1)

    def discover(kept: list[GaussianObject], before: np.ndarray, j: int, t: int) -> GaussianObject:
        linear = np.where(is_where[:, None], world.chain * before + world.crowd * total(kept), 0.0)
        shift = np.array([*world.where_mean, 0.0])
        return draw(linear, shift, np.ones(LATENT), (2 * t + 1) * num_slots + j, age=0)

    def visit(
        history: History, present: list[GaussianObject], next_id: int, log_prob: float, images: list[np.ndarray]
    ) -> None:
        t = len(history)
        if t == length:
            coefficients = np.concatenate(images)
            mean, factor = coefficients[:, 0], coefficients[:, 1:]
            covariance = factor @ factor.T + world.pixel_std**2 * np.eye(len(mean))
            log_joint[history] = log_prob + multivariate_normal.logpdf(video.reshape(-1), mean, covariance)
            return
        for survives in itertools.product((True, False), repeat=len(present)):
            survival = math.prod(p if s else 1 - p for p, s in zip(world.survival_prob, survives, strict=False))
            kept = [propagate(present, i, t) for i, s in enumerate(survives) if s]
            kept_ids = tuple(itertools.compress(history[-1], survives)) if history else ()
            for num_new, count_prob in enumerate(count(len(kept), t == 0)):
                now = list(kept)
                for j in range(num_new):
                    now.append(discover(kept, now[-1].latent if j else zero, j, t))
                image = sum((world.weights[k] @ o.latent for k, o in enumerate(now)), zero[:PIXELS]).copy()
                image[:, 0] += world.background
                ids = kept_ids + tuple(range(next_id, next_id + num_new))
                now_log_prob = log_prob + math.log(survival) + math.log(count_prob)
                visit((*history, ids), now, next_id + num_new, now_log_prob, [*images, image])

    visit((), [], 0, 0.0, [])
    return log_joint
