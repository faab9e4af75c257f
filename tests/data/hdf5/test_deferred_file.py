# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""A file whose errors wait."""

import errno
from pathlib import Path

import pytest

from pyro_sqair.data.hdf5.deferred_file import DeferredFile


class Failing:
    """Stands in for the file below: every write fails, or takes only a part."""

    def __init__(self, error=None):
        self.error, self.written = error, b""

    def write(self, data):
        if self.error is not None:
            raise self.error
        self.written += bytes(data[:3])
        return min(3, len(data))

    def close(self):
        pass


def replaced(path, stand_in):
    file = DeferredFile(path, Path("final.h5"))
    file._file.close()
    file._file = stand_in
    return file


def test_it_is_a_file(tmp_path):
    with DeferredFile(tmp_path / "a", Path("final.h5")) as file:
        assert file.write(b"0123456789") == 10 and file.tell() == 10
        assert file.seek(4) == 4 and file.read(3) == b"456"
        assert file.seek(-2, 2) == 8 and file.write(memoryview(b"xy")) == 2
        assert file.truncate(9) == 9
        file.check()
    assert (tmp_path / "a").read_bytes() == b"01234567x"


def test_all_of_the_bytes_are_written_however_little_is_taken_at_a_time(tmp_path):
    below = Failing()
    assert replaced(tmp_path / "a", below).write(b"0123456789") == 10
    assert below.written == b"0123456789"


def test_an_error_waits_and_ends_all_writing(tmp_path):
    below = Failing(OSError(errno.ENOSPC, "No space left on device"))
    file = replaced(tmp_path / "a", below)
    assert file.write(b"abc") == 3
    below.error = None
    assert file.write(b"abc") == 3 and below.written == b""
    with pytest.raises(OSError, match="No space left on device, so this file was not made: 'final.h5'") as caught:
        file.check()
    assert caught.value.errno == errno.ENOSPC


def test_ctrl_c_waits_too(tmp_path):
    with pytest.raises(KeyboardInterrupt), replaced(tmp_path / "a", Failing(KeyboardInterrupt())) as file:
        assert file.write(b"abc") == 3


def test_what_hdf5_makes_of_an_error_gives_way_to_it(tmp_path):
    with pytest.raises(OSError, match="No space left"):
        with replaced(tmp_path / "a", Failing(OSError(errno.ENOSPC, "No space left"))) as file:
            file.write(b"abc")
            raise OSError("Can't synchronously write data (filter returned failure during read)")


def test_an_error_on_its_way_is_not_hidden_by_one_that_waited(tmp_path):
    with pytest.raises(ZeroDivisionError), replaced(tmp_path / "a", Failing(OSError("late"))) as file:
        file.write(b"abc")
        raise ZeroDivisionError
