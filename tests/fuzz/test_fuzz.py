# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Commands given mutated files, runs, recordings and arguments end in a result or in a message: see run.py."""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("area", ["videos", "runs", "recordings", "arguments"])
def test_no_traceback_no_hang_no_crash_and_nothing_wrong_is_accepted(area: str) -> None:
    if area == "recordings":
        pytest.importorskip("cv2")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "COLUMNS": "120"}
    failures, first, done = [], 0, False
    while not done:  # a process that crashes is replaced, so that one run of the test reports all failures
        command = [sys.executable, str(Path(__file__).with_name("run.py")), area, str(first)]
        with TemporaryDirectory() as folder:  # its name has a constant length, and is in the files of runs
            child = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
        lines = [json.loads(line) for line in child.stdout.splitlines()]
        failures += [line for line in lines if len(line) == 3 and line[2]]
        done = child.returncode == 0
        if not done:
            assert lines, child.stderr
            failures.append([*lines[-1], f"exit code {child.returncode}: {child.stderr[-3000:]}"])
            first = lines[-1][0] + 1
    assert lines[-1][0] + 1 >= 60  # the cases of the area
    assert not failures, "\n".join(f"{name}: {problem}" for _, name, problem in failures)
