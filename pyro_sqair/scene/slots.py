# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Slots: a program draws one object at a time under short names.

A prior or a guide iterates over the slots of a phase and draws ``pres``, ``where`` and ``what`` in any order::

    for i in slots:
        pyro.sample("pres", dist.Bernoulli(0.99))
        pyro.sample("where", dist.Normal(previous.where[..., i, :], 0.1).to_event(1))
        pyro.sample("what", dist.Normal(previous.what[..., i, :], 0.1).to_event(1))

Inside the loop site ``where`` of slot 2 is named ``prop_2/where``. In a closed slot ``pres`` is 0. All other sites
count only where the object is present (contracts C3-C5).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_sqair.scene.objects import Objects, batch_shape
from pyro_sqair.scene.presence import GatedPresence, IfPresent


class Prefix(Messenger):
    """Adds ``prefix/`` to the names of all sample sites and plates inside.

    Args:
        prefix: for example ``"frame_3"``.
    """

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self.prefix = prefix

    def _process_message(self, msg: Message) -> None:
        if msg["type"] == "sample":
            msg["name"] = f"{self.prefix}/{msg['name']}"


class _PhasePrefix(Prefix):
    """Prefixes the sites outside slots, such as a latent that all objects share."""

    def _process_message(self, msg: Message) -> None:
        if (msg["infer"] or {}).get("_slot"):
            return
        if msg["name"] in ("pres", "where", "what"):
            raise ValueError(
                f"expected site {msg['name']!r} to be drawn in a loop 'for i in slots:', got it outside one"
            )
        super()._process_message(msg)


class _Slot(Messenger):
    """Names the sites of one slot, applies the presence rules and records the draws."""

    def __init__(self, prefix: str, open: Tensor) -> None:
        super().__init__()
        self.prefix = prefix + "/"
        self.open = open
        self.pres: list[Tensor] = []  # empty until ``pres`` is drawn
        self.draws: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == "pres":
            support = getattr(msg["fn"], "support", None)
            if not isinstance(msg["fn"], dist.Delta) and not getattr(support, "is_discrete", True):
                raise ValueError(
                    f"expected 'pres' of slot {self.prefix.rstrip('/')} to be drawn from a distribution over 0 and 1, "
                    f"got {msg['fn']}"
                )
            msg["fn"] = GatedPresence(msg["fn"], self.open)
        elif not site_is_subsample(msg):
            msg["fn"] = IfPresent(msg["fn"], self.pres)
        msg["name"] = self.prefix + msg["name"]
        msg["infer"] = {**(msg["infer"] or {}), "_slot": True}

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            return
        # Outer handlers have added their own prefixes by now.
        name = msg["name"].rpartition(self.prefix)[2]
        self.draws[name] = msg["value"]
        if name == "pres":
            self.pres.append(msg["value"])


class Slots:
    """The slots of one phase of one frame; see the module's docstring.

    On a CPU the loop stops when all remaining slots are closed in every sequence and particle, because such slots
    contribute zero to every weight. On a GPU it visits all slots, because the check would cost more than it saves.

    Args:
        num: the number N of slots.

    Attributes:
        phase: ``"prop"`` or ``"disc"``.
        draws: the values drawn in each visited slot, by site name.
    """

    phase: str

    def __init__(self, num: int) -> None:
        self.num = num
        self.draws: list[dict[str, Tensor]] = []

    def phase_prefix(self) -> Messenger:
        """A context for running a prior or a guide; it adds the phase to the names of sites outside slots."""
        return _PhasePrefix(self.phase)

    def is_open(self, i: int) -> Tensor:
        """Where slot ``i`` is open, bool, shape ``[*]``; it may depend on the draws of earlier slots."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[int]:
        self.draws = []
        for i in range(self.num):
            is_open = self.is_open(i)
            if is_open.device.type == "cpu" and not is_open.any():
                break
            slot = _Slot(f"{self.phase}_{i}", is_open)
            try:
                with slot:
                    yield i
            finally:  # also if the caller leaves the loop early
                if slot.draws:
                    self.draws.append(slot.draws)
            if missing := {"pres", "where", "what"} - slot.draws.keys():
                raise ValueError(
                    f"expected sites 'pres', 'where' and 'what' in slot {self.phase}_{i}, got "
                    f"{sorted(slot.draws)}; missing: {sorted(missing)}"
                )

    def objects(self, ids: Tensor | None, what_dim: int, like: Tensor) -> Objects:
        """The objects that were drawn, shape ``[*, N]``, with zeros where absent.

        Args:
            ids: the id of the object in each slot, shape ``[*, N]``; None for new objects, which have no id yet.
            what_dim: the dimension D of ``what``.
            like: a tensor whose dtype and device to use for slots that were not visited.

        Raises:
            ValueError: if a site has a wrong size, or no slot was visited although one is open.
        """
        if not self.draws:
            first = self.is_open(0)
            if first.device.type == "cpu" and first.any():
                raise ValueError(
                    f"expected sites 'pres', 'where' and 'what' to be drawn in a loop 'for i in slots:' over the slots "
                    f"of phase {self.phase!r}, got none"
                )
        batch = batch_shape(*(d["pres"].shape for d in self.draws)) if self.draws else torch.Size()
        num_unvisited = self.num - len(self.draws)
        pres = [d["pres"] for d in self.draws] + [like.new_zeros(()).expand(batch)] * num_unvisited
        present = torch.stack(pres, -1)

        def gather(name: str, size: int) -> Tensor:
            for i, draws in enumerate(self.draws):
                if draws[name].shape[-1:] != (size,):
                    raise ValueError(
                        f"expected site {name!r} of slot {self.phase}_{i} to have {size} dimensions, got a draw of "
                        f"shape {list(draws[name].shape)}"
                    )
            drawn = [d[name].expand(*batch, size) for d in self.draws]
            drawn += [like.new_zeros(size).expand(*batch, size)] * num_unvisited
            # The draws of an absent object are auxiliary variables, which the prior must not depend on.
            return torch.stack(drawn, -2) * present.unsqueeze(-1)

        if ids is None:
            ids = torch.full((self.num,), -1, dtype=torch.int64, device=like.device)
        return Objects(present, gather("where", 4), gather("what", what_dim), torch.where(present > 0, ids, -1))


class PropagationSlots(Slots):
    """The slots of propagation: slot i is open where object i was present in the previous frame (Eqs. 10 and 13).

    Args:
        previous: the objects of the previous frame.
    """

    phase = "prop"

    def __init__(self, previous: Objects) -> None:
        super().__init__(previous.pres.shape[-1])
        self._open = previous.pres > 0

    def is_open(self, i: int) -> Tensor:
        return self._open[..., i]


class DiscoverySlots(Slots):
    """The slots of discovery: slot i is open where slot i - 1 found an object and there is room for one more.

    Args:
        propagated: the objects propagated to this frame; the room is N minus their number.
    """

    phase = "disc"

    def __init__(self, propagated: Objects) -> None:
        super().__init__(propagated.pres.shape[-1])
        self.room = self.num - propagated.pres.sum(-1)

    def is_open(self, i: int) -> Tensor:
        is_open = self.room > i
        return is_open if i == 0 else is_open & (self.draws[-1]["pres"] > 0)
