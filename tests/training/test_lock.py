# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Only one training at a time in a folder; a killed one does not block the next."""

import subprocess
import sys

import pytest
from blinking import assert_identical, weights
from torch import Tensor

IN_USE = "expected a folder in which no other process trains, got one in use: .*run"
HOLD = """
import sys
from pathlib import Path
from pyro_sqair.training.lock import FolderLock
with FolderLock(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("name", ["run", "complete"])
@pytest.mark.parametrize("saved", [False, True])
def test_a_second_training_is_refused(bench, name: str, saved: bool) -> None:
    alone = bench.trainer("alone")
    alone.run()

    def start_another(frames: Tensor) -> None:
        files = {path: path.read_bytes() for path in first.out.iterdir()}
        assert first.checkpoint.exists() == saved
        second = bench.trainer(pair_seed=1)
        with pytest.raises(BlockingIOError, match=IN_USE):
            getattr(second, name)()
        assert second.step == 0
        assert {path: path.read_bytes() for path in first.out.iterdir()} == files

    first = bench.trainer(hooks={9: start_another}, checkpoint_every=4 if saved else 100)
    assert first.run()
    assert_identical(weights(first), weights(alone))
    assert bench.trainer(checkpoint_every=4 if saved else 100).complete()  # the lock is free


def test_the_lock_of_a_killed_process_is_taken_over(bench) -> None:
    trainer = bench.trainer()
    arguments = [sys.executable, "-c", HOLD, str(trainer.out)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout and child.stdout.readline() == "locked\n"
        with pytest.raises(BlockingIOError, match=IN_USE):
            trainer.complete()
        child.kill()
    assert (trainer.out / ".lock").exists()
    assert trainer.complete()
