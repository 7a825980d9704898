"""Prepares a video for the player of the page."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.app import browser_video

MB = 2**20


@dataclass(frozen=True, kw_only=True)
class Playable:
    data: bytes
    mime: str
    note: str = ""


def playable(
    path: Path, size: int, *, most_mb: int, log: Callable[[float], None] = lambda second: None
) -> Playable:
    """Return the file itself if browsers play it and it is small enough, or convert it.

    Args:
        path: The video.
        size: Its size in bytes.
        most_mb: Maximum size of a file that is sent unchanged.
        log: Called with the current second of the conversion.
    """
    mime = browser_video.mime_of(path)
    if mime is not None and size <= most_mb * MB:
        return Playable(data=path.read_bytes(), mime=mime)
    converted = browser_video.convert(path, log=log)
    reason = "browsers don't play this kind of file" if mime is None else "the file is large"
    note = f"Shown small and without sound, because {reason}."
    if not converted.is_whole:
        note += f" Only the first {converted.seconds / 60:.0f} minutes are shown."
    return Playable(data=converted.data, mime="video/mp4", note=note)
