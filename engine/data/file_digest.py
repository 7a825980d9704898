"""Whether a dataset's files are those of before, told by their sizes and times, unopened.

Moving a dataset keeps both, and so do `cp -a` and `rsync -a`; a plain copy sets new times.
"""

import hashlib
from pathlib import Path

from dali_pipelines import frame_folder
from dali_pipelines.errors import VideoError
from engine.data.manifest import Manifest


def file_digest(manifest: Manifest) -> str:
    """Changes whenever a clip's file, or a frame of its folder, is replaced, edited or gone."""
    digest = hashlib.sha256()
    for clip in manifest.clips:
        facts = [_facts_of(path) for path in _files_of(manifest.root / clip.path)]
        digest.update(repr((clip.path, facts)).encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _files_of(path: Path) -> list[Path]:
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
