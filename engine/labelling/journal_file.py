"""Copies and removes journal files while no run writes them, and explains SQLite's errors."""

import fcntl
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from engine.errors import UserError

FULL_BYTES = 1 << 20
"""A disk with less free space counts as full."""
LOCKED_BYTES = 0x40000002, 510
"""Offset and length of the byte range that SQLite locks; see its `os.h`."""


def copy(path: Path, to: Path) -> None:
    """Copy a journal and its write-ahead log.

    Raises:
        UserError: Another run is writing the journal.
    """
    with _no_other_run(path):
        for end in ("", "-wal"):
            if Path(f"{path}{end}").exists():
                shutil.copyfile(f"{path}{end}", f"{to}{end}")


def remove(path: Path) -> None:
    """Remove a journal and SQLite's files beside it.

    Raises:
        UserError: Another run is writing the journal.
    """
    with _no_other_run(path) if path.exists() else nullcontext():
        for end in ("", "-wal", "-shm"):
            Path(f"{path}{end}").unlink(missing_ok=True)


@contextmanager
def explained_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors, and errors of files that are not journals, into UserError."""
    try:
        yield
    except sqlite3.OperationalError as error:
        words = str(error)
        if "full" in words or ("disk I/O" in words and _is_full(path.parent)):
            raise UserError(
                f"{path} can't be written, the disk is full: free some space and run the same "
                "command again; labels so far are kept."
            ) from error
        if "locked" in words:
            raise _in_use(path) from error
        raise UserError(f"{path} can't be used ({words}).") from error
    except (sqlite3.Error, ValueError, TypeError, OverflowError) as error:
        raise UserError(
            f"{path} is not a journal of `engine label` ({error}): "
            "remove it, or pass another `out`."
        ) from error


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < FULL_BYTES
    except OSError:
        return False


@contextmanager
def _no_other_run(path: Path) -> Iterator[None]:
    """Hold SQLite's shared lock; raises UserError if another run is writing the journal."""
    first, count = LOCKED_BYTES
    with path.open("rb") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, count, first)
        except BlockingIOError as error:
            raise _in_use(path) from error
        yield


def _in_use(path: Path) -> UserError:
    return UserError(f"{path} is being written by another run: wait for it, or pass another `out`.")
