# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""What models and guides have in common: they step through video (contract C2)."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, Self, TypeVar

import pyro
import pyro.poutine as poutine
import torch
from pyro.infer.util import is_validation_enabled
from pyro.nn import PyroModule
from torch import Tensor

from pyro_sqair.scene.frames import check_frames, check_values
from pyro_sqair.scene.objects import SceneConfig, State, initial_state


class Program(PyroModule):
    """A model or a guide: ``init`` makes a state, ``step`` takes it to the next frame, ``forward`` runs over video.

    Args:
        scene: the sizes that a model and its guide agree on.
    """

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
        """What is remembered of an object just discovered, shape ``[M]``; None without memory."""
        return None

    def step(self, t: int, state: State, frame: Tensor | None = None) -> State:
        """One frame, within whatever plates the caller has opened.

        Args:
            t: the index of the frame, from 0.
            state: from :meth:`init` or the previous step.
            frame: the image, shape ``[B, C, H, W]``; None where there is none to see.

        Returns:
            The state of frame t.
        """
        raise NotImplementedError

    def length(self, seen: int, steps: int | None) -> int:
        """How many frames to run over when ``seen`` are given and ``steps`` are asked for."""
        return seen

    def with_slots(self, num_slots: int) -> Self:
        """A copy of this program, weights and all, that can hold another number of objects.

        A part that depends on that number has a method ``resize(num_slots)``. For a model and a guide that share parts
        see :func:`with_slots`.

        Args:
            num_slots: the number N of slots.
        """
        (copied,) = with_slots(num_slots, self)
        return copied

    def rehearse(self) -> None:
        """Runs over three frames with every slot taken, to find parts that do not fit before any work is lost.

        In the third a part is called with what it remembers of the second.

        It leaves no trace: random numbers, parameters and handlers stay as they are. A program whose weights are of
        several types or on several devices cannot run yet, and is left alone.

        Raises:
            ValueError: if a part draws wrong sites or shapes, or makes images of a wrong size; with the numbers.
        """
        if len({(parameter.dtype, parameter.device) for parameter in self.parameters()}) > 1:
            return
        like = next(self.parameters(), torch.empty(0))
        slots = range(self.scene.num_slots)
        taken = {f"frame_0/disc_{i}/pres": like.new_ones(1) for i in slots}
        taken |= {f"frame_{t}/prop_{i}/pres": like.new_ones(1) for t in (1, 2) for i in slots}
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
                states = poutine.condition(self, data=taken)(frames)
            except RuntimeError as error:
                error.add_note(f"expected parts of {type(self).__name__} that fit each other and {self.scene}")
                raise
        for state in states:
            if state.image is not None and tuple(state.image.shape[-3:]) != shape:
                raise ValueError(
                    f"expected a renderer that makes images of shape {list(shape)}, got {list(state.image.shape[-3:])}"
                )

    def part(self, name: str) -> Any:
        """A component, without registering its parameters again.

        A PyroModule registers all parameters of a component whenever the attribute is read, which takes a tenth of a
        training step; :meth:`forward` does it once.
        """
        modules = self.__dict__["_modules"]
        return modules[name] if name in modules else self.__dict__[name]

    def check(self, frames: Tensor) -> None:
        """Checks frames for shape, dtype and device, and that their values are numbers in [0, 1].

        Raises:
            ValueError: says what was expected and what came.
        """
        check_frames(frames, self.scene.channels, self.scene.image_size, next(self.parameters(), None))
        check_values(frames)

    def forward(self, frames: Tensor, steps: int | None = None) -> list[State]:
        """Runs over T frames.

        Args:
            frames: video, shape ``[S, B, C, H, W]``, values in [0, 1]; S may be 0.
            steps: how many frames T >= S a model runs over; it generates those after the S-th. The default is S. A
                guide has nothing to say about frames it cannot see, and stops at S.

        Returns:
            The T states.

        Raises:
            ValueError: for frames of another shape or dtype; and, if Pyro's validation is on, for values that are not
                numbers in [0, 1].
        """
        if is_validation_enabled():  # it reads the data, so not in a training loop
            self.check(frames)
        else:
            check_frames(frames, self.scene.channels, self.scene.image_size, next(self.parameters(), None))
        for name in self.__dict__["_modules"]:
            getattr(self, name)  # for SVI, which looks for parameters in the trace
        seen, batch = frames.shape[:2]
        states: list[State] = []
        with pyro.plate("sequences", batch, dim=-1):
            state = self.init(batch, frames)
            for t in pyro.markov(range(self.length(seen, steps))):
                state = self.step(t, state, frames[t] if t < seen else None)
                states.append(state)
        return states


P = TypeVar("P", bound=Program)


def with_slots(num_slots: int, *programs: P) -> tuple[P, ...]:
    """Copies of programs that can hold another number of objects; what they share, their copies share too.

    Args:
        num_slots: the number N of slots.
        programs: a model and its guide, say.
    """
    copies = copy.deepcopy(programs)
    for program in copies:
        program.scene = dataclasses.replace(program.scene, num_slots=num_slots)
        for part in program.__dict__["_modules"].values():
            if resize := getattr(part, "resize", None):
                resize(num_slots)
    return copies


class GenerativeProgram(Program):
    """A model: it can go on where there are no more frames to see, and generates them."""

    def length(self, seen: int, steps: int | None) -> int:
        if steps is not None and steps < seen:
            raise ValueError(f"expected steps of at least the {seen} frames that are seen, got {steps}")
        return seen if steps is None else steps
