# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""A file appears whole or not at all: the writer is killed, interrupted, or runs out of space."""

import signal
import subprocess
import sys
import threading

import h5py
import pytest

from pyro_sqair.data import SequenceDataset, SequenceWriter


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


WRITER = """
import resource, sys, time, torch
from pyro_sqair.data import Sequences, SequenceWriter

def write(path, pause):
    generator = torch.Generator().manual_seed(0)
    none = torch.zeros(4, 50, 1)
    with SequenceWriter(path, num_frames=4, image_size=(30, 30), max_objects=1) as writer:
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
    return subprocess.Popen(
        [sys.executable, "-c", WRITER + ending], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_killed_writer_leaves_nothing_that_opens_as_complete(tmp_path):
    path = tmp_path / "a.h5"
    process = run_writer(f"write({str(path)!r}, pause=0.01)")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    assert not path.exists()
    (left,) = tmp_path.iterdir()
    with h5py.File(left) as file:  # readable as HDF5: only the attribute tells
        assert len(file["frames"]) == 200 and "complete" not in file.attrs
    with pytest.raises(ValueError, match="expected a complete file, got one whose writer did not come to its end"):
        SequenceDataset(left)


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(tmp_path):
    """A limit on the size of files gives the same kind of error as a full disk, soon or late."""
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
    assert (process.returncode, errors) == (0, "")  # HDF5 alone ends in a crash
    expected = f"[Errno 27] File too large, so this file was not made: {str(path)!r}"
    assert [line for line in output.splitlines() if line != "ready"] == [expected] * len(limits)
    assert listing(tmp_path) == []


def test_ctrl_c_at_any_moment_leaves_nothing(tmp_path, make_sequences):
    batch = make_sequences(60, size=(30, 30))
    for attempt in range(25):
        timer = threading.Timer(0.003 * attempt, signal.raise_signal, [signal.SIGINT])
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            with SequenceWriter(tmp_path / "a.h5", num_frames=4, image_size=(30, 30), max_objects=3) as writer:
                while len(writer) < 30_000:
                    writer.append(batch)
        timer.join()
        assert listing(tmp_path) == []
