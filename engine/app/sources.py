"""Sources of videos: uploads, and the folders named on the command line.

Input from a visitor never becomes part of a path. An upload is stored in an unnamed file that
disappears when it is closed or the process ends. A choice is looked up in the list of videos.
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
    """Name to show; never used as a path."""
    key: tuple[Any, ...]
    """Identifies the content."""
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
    """Write data to an unnamed file and yield a path that is valid in this process."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield Path(f"/proc/self/fd/{file.fileno()}")


def picks(folders: Iterable[str]) -> dict[str, Path]:
    """Map names to the videos in these folders; links out of the folders are left out."""
    roots = [Path(folder).resolve() for folder in folders]
    videos: dict[str, Path] = {}
    for root in roots:
        prefix = f"{root}/" if len(roots) > 1 else ""
        files = (
            item
            for item in discovery.below(root, discovery.FileFilter())
            if _is_inside(item.path, root)
        )
        for item in islice(files, MAX_PICKS - len(videos)):
            videos[_readable(prefix + item.name)] = item.path
    return videos


def of_pick(name: str, listed: dict[str, Path], folders: Iterable[str]) -> Source:
    """Look a chosen video up; `name` comes from the browser and can't be trusted."""
    path = listed.get(name)
    roots = [Path(folder).resolve() for folder in folders]
    if path is None or not any(_is_inside(path, root) for root in roots):
        raise UserError(f"there is no video {name!r}; choose one from the list.")
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
    """Whether a path is a file in `root` after following all links."""
    try:
        return path.is_file() and path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # circular link
        return False


def _readable(name: str) -> str:
    """Escape bytes that are not UTF-8, which a page can't show."""
    return name.encode("utf-8", "backslashreplace").decode()
