"""Files and folders that appear whole or not at all: temporary name, sync, rename."""

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

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def new_text(path: Path) -> Iterator[TextIO]:
    """Names of files in it that aren't valid UTF-8 go through unharmed."""
    with new_binary(path) as plain:
        file = io.TextIOWrapper(plain, encoding="utf-8", errors="surrogateescape", newline="")
        yield file
        file.detach()


@contextmanager
def new_binary(path: Path) -> Iterator[BinaryIO]:
    """Write a file; on an error what stood there before is left as it was."""
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
    """Write a whole CSV file, its lines ended as Unix ends them."""
    cells = [list(map(str, row)) for row in rows]
    # csv leaves a bare carriage return unquoted, and then can't read its own line.
    odd = any("\r" in cell for row in cells for cell in row)
    with new_text(path) as file:
        writer = csv.writer(
            file, lineterminator="\n", quoting=csv.QUOTE_ALL if odd else csv.QUOTE_MINIMAL
        )
        writer.writerow(header)
        writer.writerows(cells)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill the yielded folder; it gets the name `path` at the end. `path` must be new or empty."""
    path = path.absolute()
    require_new(path)
    temporary = _temporary(path)
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{path.parent} can't be written to ({error.strerror}).") from error
    try:
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _name_if_full(path, error)
        raise


def require_new(path: Path) -> None:
    """An error where `new_folder` would refuse the name, for commands that make it at their end."""
    if path.absolute() == Path.cwd():
        raise UserError("the current folder can't be the new one; name a folder inside it.")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} already exists and isn't empty; name a new folder or remove it.")


def _name_if_full(path: Path, error: BaseException) -> None:
    """The error of a full disk names a temporary file, or the one that was copied."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _temporary(path: Path) -> Path:
    """A name beside it that nobody else has; the whole name may leave no room for what is added."""
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}")
