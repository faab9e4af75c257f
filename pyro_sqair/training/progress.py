# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The progress line of training, with the time left."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from pyro_sqair.training.config import TrainingConfig
from pyro_sqair.training.schedule import work

# No {remaining}: tqdm would assume that all steps take the same time, but sequences grow with the curriculum.
_FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}, {rate_fmt}{postfix}]"
_SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """A progress bar on a terminal; in a file, a line twice a minute.

    Args:
        config: of the run.
        step: number of steps done before.
        shown: whether to print anything.
    """

    def __init__(self, config: TrainingConfig, step: int, shown: bool = True) -> None:
        self._config = config
        self._start = work(step, config)
        self._began = time.monotonic()
        self._bar = tqdm(
            total=config.steps,
            initial=step,
            disable=not shown,
            mininterval=0.5 if sys.stderr.isatty() else _SECONDS_BETWEEN_LINES,
            bar_format=_FORMAT,
            dynamic_ncols=True,
        )

    def advance(self) -> None:
        """Counts one more step."""
        self._bar.update()

    def describe(self, step: int, length: int, bound: float, count: float | None) -> None:
        """Sets the numbers to show: steps done, frames of a sequence, nats per frame, the latest count accuracy."""
        parts = [f"bound={bound:.1f}"] + ([] if count is None else [f"count={count:.3f}"])
        parts += [f"length={length}", f"eta={self._remaining(step)}"]
        self._bar.set_postfix_str(" ".join(parts), refresh=False)

    def close(self) -> None:
        """Closes the bar; its last line stays visible."""
        self._bar.close()

    def _remaining(self, step: int) -> str:
        done = work(step, self._config) - self._start
        left = work(self._config.steps, self._config) - work(step, self._config)
        if done == 0:
            return "?"
        return str(tqdm.format_interval((time.monotonic() - self._began) * left / done))
