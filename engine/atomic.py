"""Files and folders that appear whole or not at all: temporary name, sync, rename."""

import csv
import io
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from engine.errors import UserError


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
    prefix = f".{path.name[:40]}."  # the whole may leave no room for what is added
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=prefix)
    except OSError as error:
        raise UserError(f"{path.parent} can't be written to ({error.strerror}).") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
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
    if path == Path.cwd():
        raise UserError("the current folder can't be the new one; name a folder inside it.")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} already exists and isn't empty; name a new folder or remove it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    except OSError as error:
        raise UserError(f"{path.parent} can't be written to ({error.strerror}).") from error
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
