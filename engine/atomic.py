"""Writes files and folders atomically: temporary name, sync, rename."""

import csv
import errno
import io
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from engine.errors import UserError

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def new_text(path: Path) -> Iterator[TextIO]:
    """Write a text file atomically; file names that aren't valid UTF-8 are written unchanged."""
    with new_binary(path) as plain:
        file = io.TextIOWrapper(plain, encoding="utf-8", errors="surrogateescape", newline="")
        yield file
        file.detach()


@contextmanager
def new_binary(path: Path) -> Iterator[BinaryIO]:
    """Write a binary file atomically; after an error, an existing file is unchanged."""
    temporary = _temporary(path)
    try:
        file = temporary.open("xb")
    except OSError as error:
        raise UserError(f"{path.parent} can't be written to ({error.strerror}).") from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        _name_if_full(path, error)
        raise


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file atomically, with Unix line endings."""
    cells = [list(map(str, row)) for row in rows]
    # The csv module doesn't quote a lone carriage return, and then can't read it back.
    needs_quotes = any("\r" in cell for row in cells for cell in row)
    with new_text(path) as file:
        writer = csv.writer(
            file, lineterminator="\n", quoting=csv.QUOTE_ALL if needs_quotes else csv.QUOTE_MINIMAL
        )
        writer.writerow(header)
        writer.writerows(cells)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder and rename it to `path` at the end; `path` must be new or empty.

    Its files get the usual permissions: some libraries write files that only their owner may read,
    so that a server under another user couldn't open them.
    """
    path = path.absolute()
    require_new(path)
    temporary = _temporary(path)
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{path.parent} can't be written to ({error.strerror}).") from error
    try:
        yield temporary
        usual = temporary.stat().st_mode & 0o666
        for file in temporary.rglob("*"):
            if file.is_file() and not file.is_symlink():
                file.chmod(file.stat().st_mode | usual)
        temporary.replace(path)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _name_if_full(path, error)
        raise


def require_new(path: Path) -> None:
    """Raise UserError if `new_folder` would refuse `path`, before a long computation."""
    if path.absolute() == Path.cwd():
        raise UserError("the current folder can't be the new one; name a folder inside it.")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} already exists and isn't empty; name a new folder or remove it.")


def _name_if_full(path: Path, error: BaseException) -> None:
    """Name `path` in the error of a full disk, which otherwise names a temporary file."""
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _temporary(path: Path) -> Path:
    """A unique name in the same folder; `path.name` is cut to stay within the length limit."""
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}")
