"""Exceptions of this package."""

import difflib
from pathlib import Path


class EngineError(Exception):
    """Base class of errors that the user can fix: a wrong setting, file or machine setup."""

    exit_code = 2
    """Exit code of the command line."""


class SpecError(EngineError, ValueError):
    """A setting has an invalid value."""


class VideoError(EngineError, ValueError):
    """A file can't be read as video. The message names the file."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type["VideoError"], tuple[Path, str]]:
        return VideoError, (self.path, self.reason)


class Stopped(Exception):
    """The caller canceled the work."""


class LoaderError(EngineError, RuntimeError):
    """A loader failed for a reason other than a bad file."""


def unknown_words(kind: str, name: str, choices: list[str]) -> str:
    """Error message for an unknown name: lists all choices and suggests the closest one."""
    matches = difflib.get_close_matches(name, choices, n=1)
    hint = f"; did you mean {matches[0]!r}?" if matches else "."
    return f"unknown {kind} {name!r}{hint} Choose from: {', '.join(choices)}"
