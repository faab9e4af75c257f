# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

import os
import signal
import threading

import pytest

from pyro_sqair.training.interruption import Interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_requests_a_stop_and_second_aborts(number: int) -> None:
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    with pytest.raises(KeyboardInterrupt), Interruption() as interruption:
        assert not interruption.requested
        os.kill(os.getpid(), number)
        assert interruption.requested
        os.kill(os.getpid(), number)
    assert {n: signal.getsignal(n) for n in before} == before


def test_other_threads_do_not_handle_signals() -> None:
    seen = []

    def work() -> None:
        before = signal.getsignal(signal.SIGINT)
        with Interruption() as interruption:
            seen.append(signal.getsignal(signal.SIGINT) == before and not interruption.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]
