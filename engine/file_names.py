"""Comparable and short names of files."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path


def folded(name: str) -> str:
    """Normalize case and Unicode, so that names are equal if some file system treats them so."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def last_name(path: Path) -> str:
    """Name of a folder as it was given: a link keeps its own, `.` and `..` get the folder's."""
    return (path.resolve() if path.name == ".." else path.absolute()).name


def short_names(paths: Sequence[Path]) -> dict[str, Path]:
    """Map each path's last component, or the whole path if that is ambiguous, to the path."""
    names = [last_name(path) for path in paths]
    return {
        (name if names.count(name) == 1 else str(path)): path
        for name, path in zip(names, paths, strict=True)
    }
