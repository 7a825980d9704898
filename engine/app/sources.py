"""Where a video comes from: an upload, or a folder that the command line names. Nothing else.

What a visitor sends is never part of a path. An upload becomes a file without a name, which goes
when it is closed, or with the process, however that ends; a pick is looked up among those listed.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.labelling import discovery

MAX_PICKS = 1000


@dataclass(frozen=True, kw_only=True)
class Source:
    name: str
    """What its owner calls it; for people to read only."""
    key: tuple[Any, ...]
    """The same only where the content is."""
    size: int
    opened: Callable[[], AbstractContextManager[Path]]


def of_upload(uploaded: Any) -> Source:
    """`uploaded` is Streamlit's UploadedFile."""
    return Source(
        name=uploaded.name,
        key=("upload", uploaded.file_id),
        size=uploaded.size,
        opened=lambda: nameless(uploaded.getbuffer()),
    )


@contextmanager
def nameless(data: "memoryview | bytes") -> Iterator[Path]:
    """A file on disk that no folder lists; the path holds in this process, until the end."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield Path(f"/proc/self/fd/{file.fileno()}")


def picks(folders: Iterable[str]) -> dict[str, Path]:
    """The videos that may be picked, by the names that the page shows; links may not lead out."""
    roots = [Path(folder).resolve() for folder in folders]
    found: dict[str, Path] = {}
    for root in roots:
        prefix = f"{root}/" if len(roots) > 1 else ""
        files = (
            item
            for item in discovery.below(root, discovery.FileFilter())
            if _is_inside(item.path, root)
        )
        for item in islice(files, MAX_PICKS - len(found)):
            found[_readable(prefix + item.name)] = item.path
    return found


def of_pick(name: str, listed: dict[str, Path], folders: Iterable[str]) -> Source:
    """`name` is what the browser sends, so it may be anything."""
    path = listed.get(name)
    roots = [Path(folder).resolve() for folder in folders]
    if path is None or not any(_is_inside(path, root) for root in roots):
        raise UserError(f"there is no video {name!r} to pick; choose one of the list.")
    real = path.resolve()
    status = real.stat()

    @contextmanager
    def opened() -> Iterator[Path]:
        yield real

    return Source(
        name=name,
        key=("pick", str(real), status.st_size, status.st_mtime_ns),
        size=status.st_size,
        opened=opened,
    )


def _is_inside(path: Path, root: Path) -> bool:
    """A file, and one that lies there when all links are followed."""
    try:
        return path.is_file() and path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a link that leads round in a circle
        return False


def _readable(name: str) -> str:
    """A page takes no bytes that aren't UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()
