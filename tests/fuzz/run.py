# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""`python run.py AREA FIRST`: runs the cases of an area, from number FIRST, in the current folder.

A line of JSON is printed before and after each case, so that a crash or a hang of the process names its case.
"""

import contextlib
import faulthandler
import importlib
import io
import json
import signal
import sys
import traceback

from case import SMALL, Case, write_data

from pyro_sqair.cli import main

SECONDS = 10  # of CPU time that a case may take; a busy machine does not count


def attempt(case: Case) -> str | None:
    """Runs a case; returns what is wrong, or None."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            code = case.call()
        except SystemExit as error:
            code = error.code
        except BaseException:
            return traceback.format_exc(limit=-3)
    text = output.getvalue()
    if "Traceback" in text or "tyro" in text or (code != 0 and not text.strip()):
        return f"exit code {code}, and the output {text[-2000:]!r}"
    return "accepted" if case.refused and code == 0 else None


if __name__ == "__main__":
    area, first = sys.argv[1], int(sys.argv[2])
    faulthandler.enable()
    faulthandler.register(signal.SIGPROF, chain=True)
    with contextlib.redirect_stdout(sys.stderr):  # imports everything, which takes long
        write_data()
        assert main(["train", "data/train.h5", "--out", "first", *SMALL]) == 0
        cases = getattr(importlib.import_module(area), area)()
    for number, case in enumerate(cases[first:], first):
        print(json.dumps([number, case.name]), flush=True)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # kills the process
        problem = attempt(case)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps([number, case.name, problem]), flush=True)
