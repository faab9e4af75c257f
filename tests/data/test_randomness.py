# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

import torch

from pyro_sqair.data.randomness import capture, derive_seed, isolated, restore

CPU = torch.device("cpu")


def test_seeds_are_the_same_in_every_process_and_unlike_their_neighbours() -> None:
    assert derive_seed("batch", 0, 1) == 8340923226931087204
    seeds = {derive_seed(name, seed, step) for name in "ab" for seed in range(10) for step in range(100)}
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed("batch", 1, 23) != derive_seed("batch", 12, 3)


def test_isolated_draws_have_no_effect_and_restored_draws_repeat() -> None:
    state = capture(CPU)
    with isolated(CPU):
        torch.manual_seed(5)
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), state["cpu"])
    first = torch.randn(4)
    restore(state, CPU)
    assert torch.equal(torch.randn(4), first)
