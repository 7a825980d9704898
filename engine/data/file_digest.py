"""Whether files are those of before, told by their sizes and times, unopened.

Moving a dataset keeps both, and so do `cp -a` and `rsync -a`; a plain copy sets new times.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from dali_pipelines.decode import frame_folder
from dali_pipelines.errors import VideoError
from engine.data.manifest import Manifest


def file_digest(manifest: Manifest) -> str:
    """Changes whenever a clip's file, or a frame of its folder, is replaced, edited or gone."""
    return _digest(
        (clip.path, [_facts_of(path) for path in _frames_of(manifest.root / clip.path)])
        for clip in manifest.clips
    )


def digest_of_path(path: Path) -> str:
    """The same for one file, or for those right in a folder."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return _digest(_facts_of(file) for file in files if not file.is_dir())


def _digest(facts: Iterable[object]) -> str:
    digest = hashlib.sha256()
    for each in facts:
        digest.update(repr(each).encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _frames_of(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    try:
        return frame_folder.frame_files(path)
    except VideoError:
        return []


def _facts_of(path: Path) -> tuple[str, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return path.name, found.st_size, found.st_mtime_ns
