"""Digests of file sizes and modification times, to detect changed files without reading them.

Moving a dataset keeps both, and so do `cp -a` and `rsync -a`; a plain copy sets new times.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from dali_pipelines.decode import frame_folder
from dali_pipelines.errors import VideoError
from engine.data.manifest import Manifest


def file_digest(manifest: Manifest) -> str:
    """Digest of all clips; changes if a video file or an extracted frame is edited or removed."""
    return _digest(
        (clip.path, [_stat(path) for path in _files_of(manifest.root / clip.path)])
        for clip in manifest.clips
    )


def digest_of_path(path: Path) -> str:
    """Digest of one file, or of the files directly in a folder."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return _digest(_stat(file) for file in files if not file.is_dir())


def _digest(entries: Iterable[object]) -> str:
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(repr(entry).encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _files_of(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    try:
        return frame_folder.frame_files(path)
    except VideoError:
        return []


def _stat(path: Path) -> tuple[str, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return path.name, stat.st_size, stat.st_mtime_ns
