# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The objects of a scene: what is passed from frame to frame, and how discovered objects join propagated ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_sqair.scene.shapes import batch_shape


@dataclass(frozen=True)
class SceneConfig:
    """Sizes that a model and its guide must agree on.

    Attributes:
        num_slots: the largest number N of objects in a frame.
        what_dim: the dimension D of ``what``.
        channels: C, 1 for grey and 3 for colour.
        image_size: (H, W) in pixels.
        glimpse_size: (h, w) in pixels.
        object_size: (h, w) in pixels of the box round a newly found object, if that is known; None to learn it.
        object_size_std: how far boxes may be from it: the standard deviation of their logits, which in small boxes is
            that of the log size.
    """

    num_slots: int = 3
    what_dim: int = 50
    channels: int = 1
    image_size: tuple[int, int] = (50, 50)
    glimpse_size: tuple[int, int] = (20, 20)
    object_size: tuple[float, float] | None = None
    object_size_std: float = 0.07

    def __post_init__(self) -> None:
        for name in ("image_size", "glimpse_size", "object_size"):
            size = getattr(self, name)
            if size is not None and not (isinstance(size, tuple | list) and len(size) == 2):
                raise ValueError(f"expected {name} to be (height, width), got {size!r}")
        if min(self.num_slots, self.what_dim, self.channels, *self.image_size, *self.glimpse_size) < 1:
            raise ValueError(f"expected sizes of at least 1, got {self}")
        if any(g > s for g, s in zip(self.glimpse_size, self.image_size, strict=True)):
            raise ValueError(f"expected a glimpse no larger than the image {self.image_size}, got {self.glimpse_size}")
        if self.object_size is not None and not all(
            0 < o < s for o, s in zip(self.object_size, self.image_size, strict=True)
        ):
            raise ValueError(f"expected objects smaller than the image {self.image_size}, got {self.object_size}")
        if not 0 < self.object_size_std < math.inf:
            raise ValueError(f"expected a standard deviation of the object size above 0, got {self.object_size_std}")

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """The usual box in the middle of the image, as logits of ``where``; None if nobody knows how large it is."""
        if self.object_size is None:
            return None
        height, width = (math.log(o / (s - o)) for o, s in zip(self.object_size, self.image_size, strict=True))
        return width, height, 0.0, 0.0


class Objects(NamedTuple):
    """The objects of one frame, one per slot.

    ``*`` is the batch shape, ``[B]`` or ``[K, B]``. In a program's state present objects fill the first slots and
    absent slots hold zeros. Objects just propagated stand where they stood, so there may be gaps where one was lost.

    Attributes:
        pres: presence, 0 or 1, shape ``[*, N]``, floating point.
        where: (sx, sy, tx, ty) as unconstrained logits, shape ``[*, N, 4]``: the scale, relative to the image, is
            ``sigmoid(s)``; the centre is at ``tanh(t)``, in coordinates from -1 to 1.
        what: appearance, shape ``[*, N, D]``.
        id: identity, given at discovery and never reused, shape ``[*, N]``, int64; -1 where absent.
    """

    pres: Tensor
    where: Tensor
    what: Tensor
    id: Tensor

    @property
    def num_present(self) -> Tensor:
        """The number of present objects, shape ``[*]``, floating point."""
        return self.pres.sum(-1)


class State(NamedTuple):
    """What a program hands from one frame to the next.

    Attributes:
        objects: the objects of the last frame.
        memory: what the program itself remembers of each object (a recurrent state), shape ``[*, N, M]``, or None.
        next_id: the identity the next discovered object will get, shape ``[*]``, int64.
        image: the rendered mean of the last frame, shape ``[*, C, H, W]``; None in a guide.
    """

    objects: Objects
    memory: Tensor | None
    next_id: Tensor
    image: Tensor | None = None


def no_objects(batch: int, scene: SceneConfig, like: Tensor) -> Objects:
    """An empty scene of batch shape ``[batch]`` with the dtype and device of ``like``."""
    return Objects(
        pres=like.new_zeros(batch, scene.num_slots),
        where=like.new_zeros(batch, scene.num_slots, 4),
        what=like.new_zeros(batch, scene.num_slots, scene.what_dim),
        id=torch.full((batch, scene.num_slots), -1, dtype=torch.int64, device=like.device),
    )


def initial_state(batch: int, scene: SceneConfig, like: Tensor, memory: Tensor | None = None) -> State:
    """The state before the first frame.

    Args:
        batch: the number of sequences B.
        scene: sizes.
        like: a tensor whose dtype and device the state takes.
        memory: the memory of an object just discovered, shape ``[M]``, or None.
    """
    if memory is not None:
        memory = memory.expand(batch, scene.num_slots, -1)
    next_id = torch.zeros(batch, dtype=torch.int64, device=like.device)
    return State(no_objects(batch, scene, like), memory, next_id)


def merge(
    propagated: Objects,
    discovered: Objects,
    next_id: Tensor,
    memory: Tensor | None = None,
    fresh: Tensor | None = None,
) -> State:
    """Joins propagated and discovered objects into O_t = P_t u D_t: present ones first, in order.

    The caller sees to it that no more objects are discovered than there is room for
    (:class:`~pyro_sqair.scene.slots.DiscoverySlots` does).

    Args:
        propagated: objects that survived, shape ``[*, N]``; their ids are kept.
        discovered: new objects, shape ``[*, M]``; they get the next free ids, in order.
        next_id: the first free id, shape ``[*]``.
        memory: the program's memory of the propagated objects, shape ``[*, N, C]``.
        fresh: the memory of an object just discovered, shape ``[C]``.

    Returns:
        The state of the frame, with N slots.
    """
    num_slots, num_new = propagated.pres.shape[-1], discovered.pres.shape[-1]
    batch = batch_shape(propagated.pres.shape[:-1], discovered.pres.shape[:-1])

    def join(first: Tensor, second: Tensor, *event: int) -> Tensor:
        both = first.expand(*batch, num_slots, *event), second.expand(*batch, num_new, *event)
        return torch.cat(both, len(batch))

    is_new = discovered.pres.long()
    new_id = torch.where(is_new > 0, next_id.unsqueeze(-1) + is_new.cumsum(-1) - 1, -1)
    # A stable sort by presence keeps the order among present objects; it serves every field.
    pres, order = torch.sort(join(propagated.pres, discovered.pres), dim=-1, descending=True, stable=True)
    pres, order = pres[..., :num_slots], order[..., :num_slots]

    def select(first: Tensor, second: Tensor) -> Tensor:
        index = order.unsqueeze(-1).expand(*order.shape, first.shape[-1])
        return join(first, second, first.shape[-1]).gather(-2, index)

    there = pres.unsqueeze(-1)
    objects = Objects(
        pres=pres,
        where=select(propagated.where, discovered.where) * there,
        what=select(propagated.what, discovered.what) * there,
        id=join(propagated.id, new_id).gather(-1, order),
    )
    if memory is not None:
        memory = select(memory, memory.new_zeros(memory.shape[-1]) if fresh is None else fresh) * there
    return State(objects, memory, next_id + is_new.sum(-1))


def trim_slots(objects: Objects) -> Objects:
    """Leaves out the last slots, those after the last one in which any sequence or particle has an object.

    On a CPU this saves work on every frame; on a GPU looking would cost more than it saves, so nothing is left out.
    """
    if objects.pres.device.type != "cpu":
        return objects
    used = (objects.pres > 0).reshape(-1, objects.pres.shape[-1]).any(0).nonzero()
    num = int(used[-1]) + 1 if len(used) else 1
    return Objects(*(field.narrow(objects.pres.dim() - 1, 0, num) for field in objects))


def pad_slots(memory: Tensor, num_slots: int) -> Tensor:
    """Fills up with zeros for the slots that :func:`trim_slots` left out: ``[*, n, M]`` to ``[*, N, M]``."""
    return F.pad(memory, (0, 0, 0, num_slots - memory.shape[-2]))


def stack_objects(scenes: list[Objects]) -> Objects:
    """Stacks the objects of T >= 1 frames into shape ``[T, *, N]``."""
    if not scenes:
        raise ValueError("expected at least one frame, got none")
    return Objects(*(torch.stack(torch.broadcast_tensors(*field)) for field in zip(*scenes, strict=True)))
