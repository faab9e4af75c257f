# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""A writer that is killed, interrupted or out of disk space leaves no file that readers accept."""

import signal
import subprocess
import sys
import threading

import h5py
import pytest

from pyro_sqair.data import SequenceDataset, SequenceWriter
from pyro_sqair.data.files.writer import _delayed_interrupt

WRITER = """
import resource, sys, time, torch
from pyro_sqair.data import Sequences, SequenceWriter

def write(path, pause):
    generator = torch.Generator().manual_seed(0)
    none = torch.zeros(4, 50, 1)
    with SequenceWriter(path) as writer:
        for i in range(100_000):
            pixels = torch.randint(256, (4, 50, 1, 30, 30), generator=generator)
            writer.append(Sequences(pixels.float() * (1 / 255), none[..., 0].long(), none.bool(),
                                    torch.zeros(4, 50, 1, 4), none.long() - 1, none[0].long() - 1))
            if i == 3:
                writer._file.flush()
                print("ready", flush=True)
            if i > 3:
                time.sleep(pause)

"""


def run_writer(ending):
    command = [sys.executable, "-c", WRITER + ending]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_temporary_file_of_a_killed_writer_is_refused(tmp_path):
    path = tmp_path / "a.h5"
    process = run_writer(f"write({str(path)!r}, pause=0.01)")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    assert not path.exists()
    (left,) = tmp_path.iterdir()
    with h5py.File(left) as file:  # readable as HDF5: only the attribute shows that it is incomplete
        assert len(file["frames"]) == 200 and "complete" not in file.attrs
    with pytest.raises(ValueError, match="expected a complete file in .*, got one whose writing was interrupted"):
        SequenceDataset(left)


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(tmp_path):
    """A limit on the size of files gives the same kind of error as a full disk, early or late."""
    path, limits = tmp_path / "a.h5", [100, 3000, 200_000, 1_000_000, 3_000_000]
    process = run_writer(f"""
for limit in {limits}:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write({str(path)!r}, pause=0)
    except OSError as error:
        print(error)
""")
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")  # with an ordinary file, HDF5 crashes
    expected = f"[Errno 27] File too large, so this file was not written: {str(path)!r}"
    assert [line for line in output.splitlines() if line != "ready"] == [expected] * len(limits)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_at_any_moment_leaves_nothing(tmp_path, make_sequences):
    batch = make_sequences(60, size=(30, 30))
    for attempt in range(25):
        timer = threading.Timer(0.003 * attempt, signal.raise_signal, [signal.SIGINT])
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            with SequenceWriter(tmp_path / "a.h5") as writer:
                while len(writer) < 30_000:
                    writer.append(batch)
        timer.join()
        assert list(tmp_path.iterdir()) == []


def test_ctrl_c_takes_effect_at_the_end_of_the_block():
    done = []
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        with _delayed_interrupt():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            done.append("block")
        done.append("after")
    with pytest.raises(ZeroDivisionError), _delayed_interrupt():
        raise ZeroDivisionError
    assert done == ["block"] and signal.getsignal(signal.SIGINT) is before


def test_an_ignored_signal_stays_ignored_and_other_threads_may_write():
    before, done = signal.signal(signal.SIGINT, signal.SIG_IGN), []
    try:
        with _delayed_interrupt():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)

    def work():
        with _delayed_interrupt():
            done.append("block")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == ["block"]
