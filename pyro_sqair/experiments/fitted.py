# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The description of a prior that was fitted to the draws of a trained guide."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from typing import Literal

from pyro_sqair.models import GRUPriorConfig, GuidedWalkConfig, RandomWalkConfig
from pyro_sqair.models.sqair import PropagationPriorProgram
from pyro_sqair.nn.relations import InteractionConfig, MemoryCoreConfig, Relations
from pyro_sqair.training import TrainingConfig

PropagationConfig = GRUPriorConfig | RandomWalkConfig | GuidedWalkConfig
RelationsConfig = InteractionConfig | MemoryCoreConfig

_FEWEST_SCENES = 20  # a tenth as many are held out, and a standard error needs two


@dataclass(frozen=True)
class CustomPrior:
    """A propagation prior by the name of its code.

    Attributes:
        program: MODULE:CALLABLE. A class is called with ``what_dim``; any other callable is the prior itself.
    """

    program: str

    def build(self, what_dim: int, hidden_size: int, relations: Relations | None = None) -> PropagationPriorProgram:
        """Imports the prior.

        Raises:
            ValueError: if it cannot be imported or is not callable.
        """
        try:
            found = pkgutil.resolve_name(self.program)
        except (ImportError, AttributeError, ValueError, SyntaxError, NameError) as error:
            raise ValueError(
                f"expected a propagation prior MODULE:CALLABLE on the Python path, got {self.program!r} ({error})"
            ) from error
        if not callable(found):
            raise ValueError(f"expected {self.program!r} to be callable, got {type(found).__name__}")
        try:
            return found(what_dim) if isinstance(found, type) else found
        except TypeError as error:
            raise ValueError(f"expected {self.program!r} to be a class called with what_dim, got {error}") from error


@dataclass(frozen=True)
class FittedPrior:
    """A prior that shares nothing with the guide, and how it was fitted to the guide's draws.

    Attributes:
        propagation: the propagation prior.
        relations: of objects in the propagation prior; the guide has its own.
        part: which part was fitted; the other has its weights in the run.
        training: how it was fitted. The seed is also that of the scenes and of the initial weights.
        scenes: number of scenes drawn from the guide.
        start: checksum of the weights of the run that the guide and the other parts are from.

    Raises:
        ValueError: if a setting is invalid.
    """

    propagation: PropagationConfig | CustomPrior
    relations: RelationsConfig | None
    part: Literal["both", "discovery", "propagation"]
    training: TrainingConfig
    scenes: int
    start: str

    def __post_init__(self) -> None:
        if self.part not in ("both", "discovery", "propagation"):
            raise ValueError(f"expected part 'both', 'discovery' or 'propagation', got {self.part!r}")
        if self.scenes < _FEWEST_SCENES:
            raise ValueError(f"expected at least {_FEWEST_SCENES} scenes, got {self.scenes}")
        if self.length < 2 and self.part != "discovery":
            raise ValueError(f"expected scenes of at least two frames, to fit propagation to, got {self.length}")
        if isinstance(self.propagation, CustomPrior) and self.relations is not None:
            raise ValueError(f"expected no relations with {self.propagation.program!r}, got {self.relations}")

    @property
    def length(self) -> int:
        """The number of frames of a scene."""
        return max(length for length, _ in self.training.curriculum)
