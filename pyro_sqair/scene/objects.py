# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The objects of a scene, the state between frames, and the merge of propagated and discovered objects."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Of slots, latents and units, many times the published sizes. Networks of larger ones do not fit in memory, and
# PyTorch's error does not name the setting.
LARGEST_SIZE = 4096


@dataclass(frozen=True)
class SceneConfig:
    """Sizes that a model and its guide share.

    Attributes:
        num_slots: the maximum number N of objects in a frame; at most 4096.
        what_dim: the dimension D of ``what``; at most 4096.
        channels: C, 1 for grey and 3 for colour.
        image_size: (H, W) in pixels.
        glimpse_size: (h, w) in pixels.
        object_size: expected (h, w) in pixels of the box of a new object, each at least 1; None to learn it.
        object_size_std: standard deviation of the scale logits of a new object around ``object_size``. For small boxes
            it is close to the standard deviation of the log size. From 1e-4 to 10, so that densities and scales are
            finite in float32.
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
        if max(self.num_slots, self.what_dim) > LARGEST_SIZE:
            got = f"{self.num_slots} and {self.what_dim}"
            raise ValueError(f"expected num_slots and what_dim of at most {LARGEST_SIZE}, got {got}")
        if any(g > s for g, s in zip(self.glimpse_size, self.image_size, strict=True)):
            raise ValueError(f"expected a glimpse no larger than the image {self.image_size}, got {self.glimpse_size}")
        if self.object_size is not None and not all(
            1 <= o < s for o, s in zip(self.object_size, self.image_size, strict=True)
        ):
            raise ValueError(
                f"expected object_size of at least a pixel and smaller than the image {self.image_size}, "
                f"got {self.object_size}"
            )
        if not 1e-4 <= self.object_size_std <= 10:
            raise ValueError(f"expected object_size_std from 1e-4 to 10, got {self.object_size_std}")

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """Logits of ``where`` of a box of ``object_size`` in the middle of the image; None without ``object_size``."""
        if self.object_size is None:
            return None
        height, width = (math.log(o / (s - o)) for o, s in zip(self.object_size, self.image_size, strict=True))
        return width, height, 0.0, 0.0


class Objects(NamedTuple):
    """The objects of one frame, one per slot.

    ``*`` is the batch shape, ``[B]`` or ``[K, B]``. In the state of a program present objects fill the first slots and
    absent slots hold zeros. Propagated objects keep their slots until they are merged with discovered objects, so a
    removed object leaves a gap.

    Attributes:
        pres: presence, 0 or 1, floating point, shape ``[*, N]``.
        where: (sx, sy, tx, ty) as unconstrained logits, shape ``[*, N, 4]``: the scale relative to the image is
            ``sigmoid(s)``; the centre is ``tanh(t)``, in coordinates from -1 to 1.
        what: appearance, shape ``[*, N, D]``.
        id: identity, assigned at discovery and never reused, int64, shape ``[*, N]``; -1 where absent.
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
    """What a program passes from one frame to the next.

    Attributes:
        objects: the objects of the last frame.
        memory: the program's memory of each object (a recurrent state), shape ``[*, N, M]``, or None.
        next_id: the id of the next discovered object, int64, shape ``[*]``.
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
        memory: the initial memory of an object, shape ``[M]``, or None.
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
    """Merges propagated and discovered objects into O_t = P_t u D_t, present objects first, in order.

    The number of present objects must not exceed N; :class:`~pyro_sqair.scene.slots.DiscoverySlots` ensures that.

    Args:
        propagated: propagated objects, shape ``[*, N]``; they keep their ids.
        discovered: new objects, shape ``[*, M]``; they get the next free ids, in order.
        next_id: the first free id, shape ``[*]``.
        memory: the program's memory of the propagated objects, shape ``[*, N, C]``.
        fresh: the memory of a new object, shape ``[C]``; zeros by default.

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
    # A stable sort by presence keeps the order among present objects.
    pres, order = torch.sort(join(propagated.pres, discovered.pres), dim=-1, descending=True, stable=True)
    pres, order = pres[..., :num_slots], order[..., :num_slots]

    def select(first: Tensor, second: Tensor) -> Tensor:
        index = order.unsqueeze(-1).expand(*order.shape, first.shape[-1])
        return join(first, second, first.shape[-1]).gather(-2, index)

    mask = pres.unsqueeze(-1)
    objects = Objects(
        pres=pres,
        where=select(propagated.where, discovered.where) * mask,
        what=select(propagated.what, discovered.what) * mask,
        id=join(propagated.id, new_id).gather(-1, order),
    )
    if memory is not None:
        memory = select(memory, memory.new_zeros(memory.shape[-1]) if fresh is None else fresh) * mask
    return State(objects, memory, next_id + is_new.sum(-1))


def trim_slots(objects: Objects) -> Objects:
    """Drops the slots after the last one in which any sequence or particle has an object; keeps at least one.

    On a GPU it returns all slots, because reading ``pres`` would cost more than it saves.
    """
    if objects.pres.device.type != "cpu":
        return objects
    used = (objects.pres > 0).reshape(-1, objects.pres.shape[-1]).any(0).nonzero()
    num = int(used[-1]) + 1 if len(used) else 1
    return Objects(*(field.narrow(objects.pres.dim() - 1, 0, num) for field in objects))


def pad_slots(memory: Tensor, num_slots: int) -> Tensor:
    """Pads with zeros for the slots that :func:`trim_slots` dropped: ``[*, n, M]`` to ``[*, N, M]``."""
    return F.pad(memory, (0, 0, 0, num_slots - memory.shape[-2]))


def stack_objects(scenes: list[Objects]) -> Objects:
    """Stacks the objects of T >= 1 frames into shape ``[T, *, N]``."""
    if not scenes:
        raise ValueError("expected at least one frame, got none")
    return Objects(*(torch.stack(torch.broadcast_tensors(*field)) for field in zip(*scenes, strict=True)))


def batch_shape(*shapes: torch.Size) -> torch.Size:
    """The shape to which ``shapes`` broadcast.

    The same as :func:`torch.broadcast_shapes`, which takes 60 microseconds, several hundred times per training step.
    Here each shape is nearly always a suffix of the longest one, which is fast to check.
    """
    longest = max(shapes, key=len)
    for shape in shapes:
        if longest[len(longest) - len(shape) :] != shape:
            return torch.broadcast_shapes(*shapes)
    return longest
