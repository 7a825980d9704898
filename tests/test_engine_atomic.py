"""Whole or not at all."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from engine import atomic
from engine.errors import UserError


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic.new_text(path) as file:
        file.write("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_files_and_folders_get_ordinary_permissions(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        with atomic.new_text(tmp_path / "file"):
            pass
        with atomic.new_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(mask)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o755


def test_writing_never_sets_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the whole process's: to set it for a moment opens the new files of other threads."""
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask was set"))
    with atomic.new_text(tmp_path / "file"):
        pass
    with atomic.new_folder(tmp_path / "folder"):
        pass


@pytest.mark.parametrize("new", [atomic.new_text, atomic.new_folder])
def test_a_full_disk_names_what_was_being_made(new: Any, tmp_path: Path) -> None:
    wanted = tmp_path / "wanted"
    with pytest.raises(OSError, match="No space left") as caught, new(wanted):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere/else")
    assert caught.value.filename == str(wanted)


def test_a_failed_folder_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic.new_folder(tmp_path / "a" / "set") as stage:
        (stage / "half").touch()
        raise RuntimeError
    assert not any((tmp_path / "a").iterdir())


def test_a_folder_with_something_in_it_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with atomic.new_folder(tmp_path / "set") as stage:  # an empty one may be
        (stage / "mine").touch()
    with (
        pytest.raises(UserError, match="already exists and isn't empty"),
        atomic.new_folder(tmp_path / "set"),
    ):
        pass
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["mine"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match="can't be written to"),
        atomic.new_folder(tmp_path / "file" / "set"),
    ):
        pass
    with (
        pytest.raises(UserError, match="can't be written to"),
        atomic.new_text(tmp_path / "none" / "file"),
    ):
        pass


def test_files_of_a_new_folder_can_be_read_as_usual(tmp_path: Path) -> None:
    """Some libraries write files that only their owner may read."""
    before = os.umask(0o027)
    try:
        with atomic.new_folder(tmp_path / "new") as stage:
            (stage / "part").mkdir()
            (stage / "part" / "weights").touch(mode=0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "new" / "part" / "weights").stat().st_mode & 0o777 == 0o640
