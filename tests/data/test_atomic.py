# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

import os
import re
import resource
import stat
from pathlib import Path

import pytest

from pyro_sqair.data.atomic import atomic_path, remove_temporary_files


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


def test_full_disk_is_named_with_the_final_path(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        message = re.escape(f"File too large, so this file was not written: '{target}'")
        with pytest.raises(OSError, match=message), atomic_path(target) as temporary:
            temporary.write_text("more than ten bytes")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_errors_of_other_files_stay_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error, atomic_path(tmp_path / "a.txt"):
        open(tmp_path / "other.txt")
    assert error.value.filename == str(tmp_path / "other.txt")
    with pytest.raises(OSError, match="^no image$"), atomic_path(tmp_path / "a.txt"):
        raise OSError("no image")


def test_only_temporary_files_of_these_paths_are_removed(tmp_path: Path) -> None:
    targets = [tmp_path / "a[1].pt", tmp_path / "b"]
    left = []
    for target in targets:
        with atomic_path(target) as temporary:
            temporary.write_text("")
        left.append(temporary)
    others = [
        ".a[1].backup12.pt",
        ".a[1].0123abcde.pt",
        ".a[1].0123ABCD.pt",
        "a[1].0123abcd.pt",
        ".a1.0123abcd.pt",
        ".b.c",
    ]
    for path in (*left, *(tmp_path / name for name in others)):
        path.write_text("")
    remove_temporary_files(targets)
    assert {path.name for path in tmp_path.iterdir()} == {"a[1].pt", "b", *others}
