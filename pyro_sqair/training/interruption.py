# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Ctrl-C and SIGTERM as a request to finish the step, save and stop."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupted(SystemExit):
    """A training was interrupted and saved; if uncaught, the process exits with code 130, as after Ctrl-C."""

    def __init__(self) -> None:
        super().__init__(130)


class Interruption:
    """A context in which the first Ctrl-C or SIGTERM sets `requested`, and the second raises KeyboardInterrupt.

    The previous handlers are restored at the end. In other threads than the main one, which alone receives signals,
    the context does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            # None is a handler installed from C, which Python can neither read nor restore.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        # Not print: a signal may arrive during another print, and buffered output is not re-entrant.
        os.write(2, b"\nfinishing this step and saving; a second signal aborts\n")
