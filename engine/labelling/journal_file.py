"""A journal as a file: copied and removed while nobody writes it, and what is wrong, in words."""

import fcntl
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from engine.errors import UserError

FULL_BYTES = 1 << 20
"""A disk with less room than that is full."""
LOCKED_BYTES = 0x40000002, 510
"""Where SQLite locks a file, and how many bytes of it: see its `os.h`."""


def copy(path: Path, to: Path) -> None:
    """With what SQLite keeps beside it; raises where somebody writes it."""
    with _no_other_run(path):
        for end in ("", "-wal"):
            if Path(f"{path}{end}").exists():
                shutil.copyfile(f"{path}{end}", f"{to}{end}")


def remove(path: Path) -> None:
    """With what SQLite keeps beside it; raises where somebody writes it."""
    with _no_other_run(path) if path.exists() else nullcontext():
        for end in ("", "-wal", "-shm"):
            Path(f"{path}{end}").unlink(missing_ok=True)


@contextmanager
def in_words(path: Path) -> Iterator[None]:
    """What SQLite says, in words that help; also of a file that holds what we never wrote."""
    try:
        yield
    except sqlite3.OperationalError as error:
        words = str(error)
        if "full" in words or ("disk I/O" in words and _is_full(path.parent)):
            raise UserError(
                f"{path} can't grow, the disk is full: free some space and run the same "
                "command again; what was labelled is kept."
            ) from error
        if "locked" in words:
            raise _is_written(path) from error
        raise UserError(f"{path} can't be used ({words}).") from error
    except (sqlite3.Error, ValueError, TypeError, OverflowError) as error:
        raise UserError(
            f"{path} is no journal of `engine label` ({error}): remove it, or pass another --out."
        ) from error


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < FULL_BYTES
    except OSError:
        return False


@contextmanager
def _no_other_run(path: Path) -> Iterator[None]:
    """Nobody writes the journal meanwhile; raises where somebody does."""
    first, count = LOCKED_BYTES
    with path.open("rb") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, count, first)
        except BlockingIOError as error:
            raise _is_written(path) from error
        yield


def _is_written(path: Path) -> UserError:
    return UserError(f"{path} is being written by another run: wait for it, or pass another --out.")
