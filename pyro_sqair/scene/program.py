# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The base classes of models and guides, which step through video (contract C2)."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, TypeVar

import pyro
import pyro.poutine as poutine
import torch
from pyro.infer.util import is_validation_enabled
from pyro.nn import PyroModule
from torch import Tensor

from pyro_sqair.scene.objects import SceneConfig, State, initial_state


class Program(PyroModule):
    """Base class of models and guides: ``init`` returns a state, ``step`` runs one frame, ``forward`` runs a video.

    Args:
        scene: the sizes that a model and its guide share.

    Attributes:
        generates: True for a model, which can generate the frames after those that are seen; False for a guide.
    """

    generates = False

    def __init__(self, scene: SceneConfig) -> None:
        super().__init__()
        self.scene = scene

    def init(self, batch: int, like: Tensor | None = None) -> State:
        """The state before the first frame.

        Args:
            batch: the number B of sequences.
            like: a tensor whose dtype and device to take; by default, those of the program's weights.
        """
        if like is None:
            like = next(self.parameters(), torch.empty(0))
        return initial_state(batch, self.scene, like, self.fresh_memory)

    @property
    def fresh_memory(self) -> Tensor | None:
        """The memory of a newly discovered object, shape ``[M]``; None for a program without memory."""
        return None

    def step(self, t: int, state: State, frame: Tensor | None = None) -> State:
        """Runs one frame, inside the plates that the caller has opened.

        Args:
            t: the index of the frame, from 0.
            state: from :meth:`init` or the previous step.
            frame: the image, shape ``[B, C, H, W]``; None to generate it.

        Returns:
            The state of frame t.
        """
        raise NotImplementedError

    def part(self, name: str) -> Any:
        """Returns a component by name; use it inside :meth:`step` instead of attribute access.

        Attribute access makes a PyroModule register all parameters of the component, which takes a tenth of a training
        step if it is done in every frame. :meth:`forward` does it once.
        """
        modules = self.__dict__["_modules"]
        return modules[name] if name in modules else self.__dict__[name]

    def rehearse(self) -> None:
        """Checks that the components fit each other; models and guides call it when they are built.

        It runs the program on three frames with an object in every slot. Three are needed to call a propagation with
        the memory that it has returned itself. Random numbers, parameters and handlers are left as they were. A program
        with weights of several dtypes or devices cannot run yet and is not checked.

        Raises:
            ValueError: if a component draws wrong sites or shapes, or renders images of a wrong size.
        """
        if len({(parameter.dtype, parameter.device) for parameter in self.parameters()}) > 1:
            return
        like = next(self.parameters(), torch.empty(0))
        slots = range(self.scene.num_slots)
        pres = {f"frame_0/disc_{i}/pres": like.new_ones(1) for i in slots}
        pres |= {f"frame_{t}/prop_{i}/pres": like.new_ones(1) for t in (1, 2) for i in slots}
        shape = (self.scene.channels, *self.scene.image_size)
        frames = like.new_zeros(3, 1, *shape)
        devices = [like.device] if like.device.type == "cuda" else []
        with (
            torch.no_grad(),
            torch.random.fork_rng(devices=devices),
            pyro.get_param_store().scope(),
            poutine.block(),
            pyro.validation_enabled(True),
        ):
            try:
                states = poutine.condition(self, data=pres)(frames)
            except RuntimeError as error:
                error.add_note(f"expected parts of {type(self).__name__} that fit each other and {self.scene}")
                raise
        for state in states:
            if state.image is not None and tuple(state.image.shape[-3:]) != shape:
                raise ValueError(
                    f"expected a renderer that makes images of shape {list(shape)}, got {list(state.image.shape[-3:])}"
                )

    def check(self, frames: Tensor, values: bool = True) -> None:
        """Checks a batch of video: shape, dtype, device and, because that reads the data, optionally the values.

        Args:
            frames: expected floating point, shape ``[T, B, C, H, W]`` with B >= 1, dtype and device of the program's
                weights; T may be 0.
            values: whether to check that all values are numbers in [0, 1].

        Raises:
            ValueError: if the frames do not meet these conditions.
        """
        if not isinstance(frames, Tensor):
            raise ValueError(f"expected frames as a torch.Tensor, got {type(frames).__name__}")
        size = (self.scene.channels, *self.scene.image_size)
        if frames.dim() != 5 or tuple(frames.shape[2:]) != size:
            expected = ", ".join(map(str, size)) if frames.dim() == 5 else "C, H, W"
            raise ValueError(f"expected frames of shape [T, B, {expected}], got {list(frames.shape)}")
        if frames.shape[1] == 0:
            raise ValueError(f"expected at least one sequence in the batch, got frames of shape {list(frames.shape)}")
        if not frames.is_floating_point():
            raise ValueError(
                f"expected floating-point frames with values in [0, 1], got {frames.dtype}; "
                "for uint8 video divide by 255"
            )
        weight = next(self.parameters(), frames)
        if frames.dtype != weight.dtype or frames.device.type != weight.device.type:
            raise ValueError(
                f"expected {weight.dtype} frames on {weight.device}, like the program's weights, got {frames.dtype} on "
                f"{frames.device}; convert either with .to(...)"
            )
        if not values or frames.numel() == 0:
            return
        if num_invalid := int((~torch.isfinite(frames)).sum()):
            raise ValueError(f"expected frames with finite values, got {num_invalid} NaN or infinite values")
        low, high = (value.item() for value in frames.aminmax())
        if low < 0 or high > 1:
            raise ValueError(
                f"expected frames with values in [0, 1], got values from {low:.4g} to {high:.4g}; "
                "for video in 0..255 divide by 255"
            )

    def forward(self, frames: Tensor, steps: int | None = None) -> list[State]:
        """Runs over T frames.

        Args:
            frames: video, shape ``[S, B, C, H, W]``, values in [0, 1]; S may be 0.
            steps: the number T >= S of frames that a model runs over; it generates those after the S-th. The default
                is S. A guide always runs over S frames.

        Returns:
            The T states.

        Raises:
            ValueError: if :meth:`check` rejects the frames (values are checked if Pyro's validation is enabled), or
                ``steps`` is less than S.
        """
        self.check(frames, values=is_validation_enabled())
        seen, batch = frames.shape[:2]
        if steps is not None and steps < seen:
            raise ValueError(f"expected steps of at least the {seen} frames that are seen, got {steps}")
        length = seen if steps is None or not self.generates else steps
        for name in self.__dict__["_modules"]:
            getattr(self, name)  # registers parameters in the trace, where SVI looks for them
        states: list[State] = []
        with pyro.plate("sequences", batch, dim=-1):
            state = self.init(batch, frames)
            for t in pyro.markov(range(length)):
                state = self.step(t, state, frames[t] if t < seen else None)
                states.append(state)
        return states


P = TypeVar("P", bound=Program)


def with_slots(num_slots: int, *programs: P) -> tuple[P, ...]:
    """Copies trained programs, with room for another number of objects; components they share stay shared.

    A component that depends on the number of slots has a method ``resize(num_slots)``.

    Args:
        num_slots: the number N of slots.
        programs: for example a model and its guide.
    """
    copies = copy.deepcopy(programs)
    for program in copies:
        program.scene = dataclasses.replace(program.scene, num_slots=num_slots)
        for part in program.__dict__["_modules"].values():
            if resize := getattr(part, "resize", None):
                resize(num_slots)
    return copies
