"""What this package raises when the user, not the code, can mend it."""

import difflib
from pathlib import Path


class EngineError(Exception):
    """Base of all errors whose cause lies outside the code: a setting, a file, the machine."""

    exit_code = 2
    """Of the command line."""


class SpecError(EngineError, ValueError):
    """A clip setting that can't be used."""


class VideoError(EngineError, ValueError):
    """A file that can't be read as video. The message names the file."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type["VideoError"], tuple[Path, str]]:
        return VideoError, (self.path, self.reason)


class Stopped(Exception):
    """The caller no longer wants what it asked for."""


class LoaderError(EngineError, RuntimeError):
    """A loader broke down, through no fault of the file's that its message names."""


def unknown_words(kind: str, name: str, choices: list[str]) -> str:
    """What is said of a misspelled name: all choices, and the nearest one."""
    near = difflib.get_close_matches(name, choices, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"unknown {kind} {name!r}{hint} Choose from: {', '.join(choices)}"
