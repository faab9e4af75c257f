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

SECONDS = 600  # for an area; twenty times what it takes


@pytest.mark.slow
@pytest.mark.parametrize("area", ["videos", "runs", "recordings", "arguments"])
def test_no_traceback_no_hang_no_crash_and_nothing_wrong_is_accepted(area: str) -> None:
    if area == "recordings":
        pytest.importorskip("cv2")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "COLUMNS": "120"}
    failures, first, number, done = [], 0, 0, False
    while not done:  # a process that crashes is replaced, so that one run of the test reports all failures
        command = [sys.executable, str(Path(__file__).with_name("run.py")), area, str(first)]
        with TemporaryDirectory() as folder:  # its name has a constant length, and is in the files of runs
            try:
                child = subprocess.run(
                    command, capture_output=True, text=True, cwd=folder, env=environment, timeout=SECONDS
                )
                output, errors, code = child.stdout, child.stderr, child.returncode
            except subprocess.TimeoutExpired as error:  # blocked, without using the CPU
                output, errors, code = error.stdout.decode(), error.stderr.decode(), None
        lines = [json.loads(line) for line in output.splitlines()]
        failures += [line for line in lines if len(line) == 3 and line[2]]
        number = max([number, *(line[0] + 1 for line in lines)])
        done = code == 0
        if not done:
            assert lines, errors
            failures.append([*lines[-1][:2], f"exit code {code}: {errors[-3000:]}"])
            first = number
    assert number >= 60  # the cases of the area
    assert not failures, "\n".join(f"{name}: {problem}" for _, name, problem in failures)
