# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

import os
import stat
from pathlib import Path

import pytest

from pyro_sqair.data.atomic import atomic_path


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "metrics.json"
    for before, content in ((None, "{}"), ("{}", "[]")):
        with atomic_path(str(target)) as temporary:
            temporary.write_text(content)
            assert (target.read_text() if target.exists() else None) == before
            assert temporary.parent == target.parent and temporary.suffix == ".json"
        assert target.read_text() == content
        assert list(target.parent.iterdir()) == [target]


def test_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o644
