"""Names of files and folders that tell them apart."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path


def folded(name: str) -> str:
    """The same for names that some file system doesn't tell apart: `Day`, `day`, and the two ways
    to write `é`."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def short_names(paths: Sequence[Path]) -> dict[str, Path]:
    """Each by its last name where this tells it from the others, else by its whole path."""
    names = [path.resolve().name for path in paths]
    return {
        (name if names.count(name) == 1 else str(path)): path
        for name, path in zip(names, paths, strict=True)
    }
